//! Keeps a write from taking the beginning of a large message for all of it.
//!
//! The `content` of a message whose text lies in a file is the first KB of it. A statement may read, compare and count
//! that; one that wrote what it computes of it would cut the message: `UPDATE messages SET content = trim(content)`.
//!
//! Invariant: no value of a plan that went through [`guard`] is computed of a beginning. What only chooses rows (WHERE,
//! ORDER BY) is not looked at.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, AsArray},
        compute::cast,
        datatypes::{DataType, Int64Type},
    },
    common::{
        Column, DFSchemaRef, JoinType, Result,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    error::DataFusionError,
    logical_expr::{
        ColumnarValue, Distinct, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Subquery,
        Volatility, expr::ScalarFunction,
    },
    optimizer::utils::NamePreserver,
};
use kalamdb_protocol::ErrorCode;
use kalamdb_store::holds_text;

use crate::Error;

/// Columns of a plan, by their places.
type Columns = BTreeSet<usize>;

/// The plan, which fails on a row whose `values`, which are columns of it, are computed of a beginning.
pub(super) fn guard(plan: LogicalPlan, values: &Columns) -> Result<LogicalPlan> {
    if values.is_empty() { Ok(plan) } else { guarded(plan, values) }
}

fn guarded(plan: LogicalPlan, wanted: &Columns) -> Result<LogicalPlan> {
    let inputs: Vec<Input> = plan.inputs().into_iter().map(Input::of).collect();
    let flow = Flow::of(&plan, &inputs, wanted);
    let mut below = flow.passed;
    let names = NamePreserver::new(&plan);
    let mut place = 0;
    let plan = plan.map_expressions(|expr| {
        let is_made = flow.made.contains(place);
        place += 1;
        if !is_made {
            return Ok(Transformed::no(expr));
        }
        for (input, below) in inputs.iter().zip(&mut below) {
            below
                .extend(expr.column_refs().into_iter().filter_map(|column| input.schema.maybe_index_of_column(column)));
        }
        let name = names.save(&expr);
        let wrapped = expr.transform_up(|expr| wrap(expr, &inputs))?;
        Ok(wrapped.update_data(|expr| name.restore(expr)))
    });
    let mut below = below.into_iter();
    plan.data()?.map_children(|input| guarded(input, &below.next().unwrap_or_default()).map(Transformed::yes)).data()
}

/// The columns that an expression of a node can read.
struct Input {
    schema: DFSchemaRef,
    /// The columns among them that are a message's content as it is stored.
    contents: Columns,
}

impl Input {
    fn of(plan: &LogicalPlan) -> Self {
        Self { schema: Arc::clone(plan.schema()), contents: contents(plan) }
    }
}

/// The columns of a plan that are `content` as it is stored, with `contentRef` and `msgId` beside it.
fn contents(plan: &LogicalPlan) -> Columns {
    match plan {
        LogicalPlan::TableScan(scan) if matches!(scan.table_name.table(), "messages" | "deletedMessages") => {
            // A recursive WITH may be called so too, and reads what was guarded where it was written.
            let place = |name| scan.projected_schema.index_of_column_by_name(None, name);
            let is_whole = place("contentRef").is_some() && place("msgId").is_some();
            place("content").filter(|_| is_whole).into_iter().collect()
        }
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => plan.inputs().into_iter().flat_map(contents).collect(),
        LogicalPlan::Join(join) => match shown(join.join_type) {
            Shown::Left => contents(&join.left),
            Shown::Right => contents(&join.right),
            Shown::Both => {
                let left = join.left.schema().fields().len();
                let right = contents(&join.right).into_iter().map(|column| column + left);
                contents(&join.left).into_iter().chain(right).collect()
            }
        },
        _ => Columns::new(),
    }
}

/// The sides of a join whose columns it hands on.
enum Shown {
    Left,
    Right,
    Both,
}

fn shown(join: JoinType) -> Shown {
    match join {
        // A mark, which comes last, is computed of whether there is a row, not of what is in it.
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => Shown::Left,
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => Shown::Right,
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => Shown::Both,
    }
}

/// The sources of the wanted columns of a node.
struct Flow {
    made: Made,
    /// The columns that its inputs have as they are.
    passed: Vec<Columns>,
}

/// The expressions of a node that make a wanted column.
enum Made {
    All,
    These(Columns),
}

impl Made {
    fn contains(&self, place: usize) -> bool {
        match self {
            Self::All => true,
            Self::These(places) => places.contains(&place),
        }
    }
}

impl Flow {
    fn of(plan: &LogicalPlan, inputs: &[Input], wanted: &Columns) -> Self {
        let made = |places: Columns| Self { made: Made::These(places), passed: vec![Columns::new(); inputs.len()] };
        let passed = |passed| Self { made: Made::These(Columns::new()), passed };
        let width = |input: usize| inputs.get(input).map_or(0, |input| input.schema.fields().len());
        match plan {
            LogicalPlan::Projection(_) => made(wanted.clone()),
            LogicalPlan::Aggregate(aggregate) if !matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]) => {
                made(wanted.clone())
            }
            LogicalPlan::Window(_) => {
                let (through, computed): (Columns, Columns) = wanted.iter().partition(|column| **column < width(0));
                let computed = computed.into_iter().map(|column| column - width(0)).collect();
                Self { made: Made::These(computed), passed: vec![through] }
            }
            LogicalPlan::Join(join) => match shown(join.join_type) {
                Shown::Left => passed(vec![wanted.clone(), Columns::new()]),
                Shown::Right => passed(vec![Columns::new(), wanted.clone()]),
                Shown::Both => {
                    let (left, right): (Columns, Columns) = wanted.iter().partition(|column| **column < width(0));
                    passed(vec![left, right.into_iter().map(|column| column - width(0)).collect()])
                }
            },
            LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Distinct(Distinct::All(_)) => passed(vec![wanted.clone(); inputs.len()]),
            _ => Self { made: Made::All, passed: (0..inputs.len()).map(|input| (0..width(input)).collect()).collect() },
        }
    }
}

/// An expression that makes a value, at one of its nodes.
fn wrap(expr: Expr, inputs: &[Input]) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Column(column) if is_content(&column, inputs) => {
            let beside = |name: &str| Expr::Column(Column::new(column.relation.clone(), name));
            let (content_ref, msg_id) = (beside("contentRef"), beside("msgId"));
            let args = vec![Expr::Column(column), content_ref, msg_id];
            let func = Arc::new(ScalarUDF::new_from_impl(Whole::new()));
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args })))
        }
        Expr::OuterReferenceColumn(_, ref column) if column.name == "content" => {
            let message = "A value that is written cannot be computed of the `content` of an outer query; write the \
                           statement without a subquery there.";
            Err(ours(Error::new(ErrorCode::Unsupported, message)))
        }
        Expr::ScalarSubquery(query) => Ok(Transformed::yes(Expr::ScalarSubquery(subquery(query)?))),
        Expr::Exists(mut exists) => {
            exists.subquery = subquery(exists.subquery)?;
            Ok(Transformed::yes(Expr::Exists(exists)))
        }
        Expr::InSubquery(mut query) => {
            query.subquery = subquery(query.subquery)?;
            Ok(Transformed::yes(Expr::InSubquery(query)))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn is_content(column: &Column, inputs: &[Input]) -> bool {
    inputs
        .iter()
        .any(|input| input.schema.maybe_index_of_column(column).is_some_and(|place| input.contents.contains(&place)))
}

fn subquery(query: Subquery) -> Result<Subquery> {
    let plan = Arc::unwrap_or_clone(query.subquery);
    let all = (0..plan.schema().fields().len()).collect();
    Ok(Subquery { subquery: Arc::new(guarded(plan, &all)?), ..query })
}

fn ours(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// `whole(content, contentRef, msgId)`: the content, when it is all of the message's text.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Whole {
    signature: Signature,
}

impl Whole {
    fn new() -> Self {
        Self { signature: Signature::any(3, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Whole {
    fn name(&self) -> &'static str {
        "whole"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().ok_or_else(|| ours(Error::fault("whole() of nothing")))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [content, content_ref, msg_id] = args.args.as_slice() else {
            return Err(ours(Error::fault("whole() of something else")));
        };
        let texts = content.clone().into_array(rows)?;
        let files = cast(&content_ref.clone().into_array(rows)?, &DataType::Utf8View)?;
        let ids = cast(&msg_id.clone().into_array(rows)?, &DataType::Int64)?;
        let files = files.as_string_view();
        let cut = (0..rows).find(|row| texts.is_valid(*row) && files.is_valid(*row) && holds_text(files.value(*row)));
        match cut {
            None => Ok(content.clone()),
            Some(row) => Err(ours(too_long(ids.as_primitive::<Int64Type>().value(row)))),
        }
    }
}

fn too_long(msg_id: i64) -> Error {
    Error::new(
        ErrorCode::InvalidValue,
        format!(
            "The message {msg_id} is longer than what SQL sees of it; give its whole new text, or leave it out by \
             WHERE contentRef IS NULL."
        ),
    )
    .with("msgId", msg_id)
}
