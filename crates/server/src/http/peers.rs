//! The number of open connections of each address.
//!
//! Invariant: one address never has all the places of connections, so that somebody else always finds one; a proxy on this
//! machine, behind which everybody is, is no address in this sense.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The connections are so many parts, of which one is for everybody else: few enough that a proxy on another machine
/// can do with the rest, and enough to look at the server while somebody floods it.
const PART_FOR_OTHERS: u32 = 8;

/// Connections by address.
pub struct Peers {
    share: u32,
    open: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

/// A connection of an address.
pub struct Peer {
    address: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

impl Peers {
    /// The peers of a server that takes so many connections.
    pub fn new(places: u32) -> Self {
        Self { share: (places - places / PART_FOR_OTHERS).max(1), open: Arc::default() }
    }

    /// Counts a connection; nothing when its address has its share already.
    pub fn enter(&self, address: IpAddr) -> Option<Peer> {
        let address = address.to_canonical();
        let mut open = lock(&self.open);
        let count = open.entry(address).or_default();
        if *count >= self.share && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Peer { address, open: Arc::clone(&self.open) })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// A panic while it is held leaves whole numbers, which are right.
fn lock(open: &Mutex<HashMap<IpAddr, u32>>) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_leaves_places_to_others() {
        let peers = Peers::new(16);
        let mut flood: Vec<_> = (0..14).map(|_| peers.enter(address("192.0.2.1")).unwrap()).collect();
        assert!(peers.enter(address("192.0.2.1")).is_none());
        // A socket for both families writes the same address in this way.
        assert!(peers.enter(address("::ffff:192.0.2.1")).is_none());
        drop(peers.enter(address("192.0.2.2")).unwrap());
        flood.pop();
        flood.push(peers.enter(address("192.0.2.1")).unwrap());
        drop(flood);
        assert!(lock(&peers.open).is_empty());
    }

    #[test]
    fn everybody_may_be_behind_a_proxy_on_this_machine() {
        let peers = Peers::new(16);
        for loopback in ["127.0.0.1", "::1"] {
            let open: Vec<_> = (0..16).map(|_| peers.enter(address(loopback))).collect();
            assert!(open.iter().all(Option::is_some));
        }
        assert!(Peers::new(1).enter(address("192.0.2.1")).is_some());
    }
}
