//! The overlay against a plain map.

use std::{cell::RefCell, collections::BTreeMap, ops::ControlFlow, sync::Arc};

use proptest::prelude::*;

use super::settings;
use crate::{
    database::{Database, Read},
    horizon::Horizon,
    keys::Family,
    overlay::Overlay,
};

#[derive(Debug, Clone)]
enum Op {
    Put(u8, u8),
    Delete(u8),
    Keep,
    Discard,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (any::<u8>(), any::<u8>()).prop_map(|(key, value)| Op::Put(key % 32, value)),
        3 => any::<u8>().prop_map(|key| Op::Delete(key % 32)),
        2 => Just(Op::Keep),
        1 => Just(Op::Discard),
    ];
    proptest::collection::vec(op, 0..60)
}

fn scan(read: &impl Read, from: u8, to: u8, backwards: bool, most: usize) -> Vec<(u8, u8)> {
    let mut seen = Vec::new();
    read.scan(Family::Meta, &[from], &[to], backwards, &mut |key, value| {
        seen.push((key[0], value[0]));
        Ok(if seen.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .unwrap();
    seen
}

#[test]
fn it_reads_as_if_it_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path(), &settings(folder.path()), &Arc::new(Horizon::default())).unwrap();
    let written: BTreeMap<u8, u8> = (0..32).step_by(3).map(|key| (key, key)).collect();
    let entries: Vec<_> = written.iter().map(|(key, value)| ([*key], [*value])).collect();
    database
        .write(entries.iter().map(|(key, value)| (Family::Meta, key.as_slice(), Some(value.as_slice()))), false)
        .unwrap();
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&(ops(), 0_u8..32, 0_u8..32, any::<bool>(), 1_usize..40), |(ops, from, to, backwards, most)| {
            let cache = RefCell::default();
            let mut overlay = Overlay::new(&database, &cache);
            let (mut kept, mut model) = (written.clone(), written.clone());
            for op in ops {
                match op {
                    Op::Put(key, value) => {
                        overlay.put(Family::Meta, vec![key], vec![value]);
                        model.insert(key, value);
                    }
                    Op::Delete(key) => {
                        overlay.delete(Family::Meta, vec![key]);
                        model.remove(&key);
                    }
                    Op::Keep => {
                        overlay.keep();
                        kept.clone_from(&model);
                    }
                    Op::Discard => {
                        overlay.discard();
                        model.clone_from(&kept);
                    }
                }
            }
            let range = model.iter().filter(|(key, _)| (from..to).contains(key)).map(|(key, value)| (*key, *value));
            let mut expected: Vec<_> = range.collect();
            if backwards {
                expected.reverse();
            }
            expected.truncate(most);
            prop_assert_eq!(scan(&overlay, from, to, backwards, most), expected);
            for key in 0..32 {
                let value = overlay.get(Family::Meta, &[key]).unwrap();
                prop_assert_eq!(value, model.get(&key).map(|value| vec![*value]));
            }
            Ok(())
        })
        .unwrap();
}
