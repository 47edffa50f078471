//! The way from a scoped statement to rows that are being computed.
//!
//! Invariant: no catalog, no file, no table but those of [`super::catalog`]. A statement's memory is its own; what
//! statements share (functions, the metadata of segments, the total of memory) holds nobody's rows.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use datafusion::{
    arrow::{
        array::{RecordBatch, RecordBatchOptions},
        datatypes::Schema,
    },
    catalog::TableProvider,
    common::{
        Result as PlanResult,
        error::DataFusionError,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    dataframe::DataFrame,
    datasource::provider_as_source,
    execution::{
        SendableRecordBatchStream, SessionState, SessionStateBuilder, SessionStateDefaults, TaskContext,
        context::SQLOptions,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{MemoryConsumer, MemoryPool},
        object_store::ObjectStoreUrl,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    functions_aggregate::first_last::first_value_udaf,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
    physical_plan::{execute_stream, stream::RecordBatchStreamAdapter},
    prelude::SessionConfig,
    sql::{
        planner::{ParserOptions, SqlToRel},
        sqlparser::ast,
    },
};
use futures::{StreamExt, TryStreamExt};
use kalamdb_protocol::{ErrorCode, Micros, QueryRequest, TableId, UserId};
use kalamdb_store::{Segment, Seq, Snapshot, Store};
use moka::sync::Cache as Moka;
use parking_lot::Mutex;

use super::{
    SEGMENTS_URL,
    cache::{Cache, Key, versions},
    catalog::{Dependency, Names, check_functions},
    errors::{client_error, rowless_error},
    lean::{Blocks, Directories, Templates},
    memory::{QueryMemory, TotalMemory},
    order::optimizer_rules,
    output::{Held, Limits, Rows},
    stops::{StopSign, analyzer_rules, logical_rules},
    tables::{DeletedMessages, DeletedOptions, MessageOptions, MessagesTable, store_error},
    window_arguments,
};
use crate::{
    Caller, Error, QuerySettings, Result,
    functions::{self, Work},
    sql::{self, Read, Shape, Template, shown},
    upstream,
    workers::{Stage, Ticket},
};

/// Footers and page indexes of segments that are kept in memory: those of some thousand segments.
const METADATA_CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Lists of segments that are kept decoded: those of some thousand owners.
const SEGMENT_LISTS_BYTES: u64 = 16 * 1024 * 1024;

/// Files are split between threads only when there is so much to read.
const SPLIT_FILES_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that the Parquet reader may keep of columns that it reads for a condition and again for the answer.
const PREDICATE_CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Long-lived: what all statements share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reader(Arc<Shared>);

struct Shared {
    store: Store,
    /// What each statement gets a copy of: without the functions, which are hundreds.
    state: SessionState,
    functions: SessionState,
    memory: Arc<TotalMemory>,
    memory_share_bytes: usize,
    limits: Limits,
    cache: Option<Cache>,
    segments: Segments,
    directories: Directories,
    blocks: Blocks,
    templates: Templates,
}

/// The segments of the owners that were read last, by the commit that changed them last.
type Segments = Moka<(UserId, Seq), Arc<[Segment]>>;

/// A statement's view of the data: its caller, its snapshot and its memory. Cheap to clone; a clone shares the memory.
#[derive(Clone)]
pub(crate) struct View {
    reader: Reader,
    caller: Caller,
    snapshot: Snapshot,
    /// By the store's clock.
    now: Micros,
    /// Made when the statement is planned.
    state: Arc<OnceLock<SessionState>>,
    memory: Arc<QueryMemory>,
    work: Arc<Work>,
    hidden: bool,
    dependencies: Arc<Mutex<BTreeSet<Dependency>>>,
    /// The names of columns in the answer, by the planner's names, where they differ.
    shown: Arc<Mutex<HashMap<String, String>>>,
}

impl Reader {
    /// Prepares what statements share.
    ///
    /// # Errors
    /// A fault of ours only.
    pub fn new(store: Store, settings: &QuerySettings) -> Result<Self> {
        let objects = store.objects();
        let fault = |error: DataFusionError| rowless_error(&error, None);
        let state = base_state(&store, settings).map_err(fault)?;
        let functions = all_functions(settings).map_err(fault)?;
        Ok(Self(Arc::new(Shared {
            store,
            state,
            functions,
            memory: TotalMemory::new(settings.total_memory_bytes),
            memory_share_bytes: settings.max_memory_bytes,
            limits: Limits { rows: settings.max_rows, bytes: settings.max_response_bytes },
            cache: settings.enable_cache.then(|| Cache::new(settings.cache_bytes)),
            segments: Moka::builder().max_capacity(SEGMENT_LISTS_BYTES).weigher(list_bytes).build(),
            directories: Directories::new(objects),
            blocks: Blocks::new(),
            templates: Templates::new(),
        })))
    }

    /// The answer from memory, if the same was asked before and still has the same answer.
    pub fn cached(&self, caller: &Caller, request: &QueryRequest, ticket: &Ticket) -> Option<Rows> {
        let cache = self.0.cache.as_ref()?;
        let answer = cache.get(&Key::new(caller, request)?, &self.0.store)?;
        let held = Held::of_cache(self.0.memory.share(&caller.user, self.0.memory_share_bytes));
        Some(Rows::cached(&answer, ticket.clone(), self.0.limits, held))
    }

    /// The statement of this shape and its values, if the shape was parsed before and needs no planner.
    pub fn known(&self, sql: &str) -> Option<(Arc<Template>, Shape)> {
        let shape = Shape::of(sql)?;
        Some((self.0.templates.get(&shape)?, shape))
    }

    /// Keeps the shape of a statement that was parsed as a read.
    pub fn learn(&self, sql: &str) {
        if let Some(shape) = Shape::of(sql) {
            self.0.templates.learn(shape);
        }
    }

    /// A statement of the caller's over the snapshot.
    pub fn view(&self, caller: &Caller, snapshot: Snapshot) -> View {
        View {
            reader: self.clone(),
            caller: caller.clone(),
            snapshot,
            now: self.0.store.now(),
            state: Arc::default(),
            memory: self.0.memory.share(&caller.user, self.0.memory_share_bytes),
            work: Work::new(Stage::free()),
            hidden: false,
            dependencies: Arc::default(),
            shown: Arc::default(),
        }
    }
}

/// Bytes of a list of segments in memory.
fn list_bytes(_: &(UserId, Seq), segments: &Arc<[Segment]>) -> u32 {
    let bytes = segments.iter().map(|segment| {
        let (first, last) = &segment.conversations;
        let texts = segment.path.len() + first.id.as_str().len() + last.id.as_str().len();
        size_of::<Segment>() + texts + segment.deleted.serialized_size()
    });
    u32::try_from(bytes.sum::<usize>() + size_of::<UserId>()).unwrap_or(u32::MAX)
}

/// Everything about DataFusion that does not depend on the statement, but for the functions.
fn base_state(store: &Store, settings: &QuerySettings) -> PlanResult<SessionState> {
    let runtime = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .with_metadata_cache_limit(METADATA_CACHE_BYTES)
        .build()?;
    // No statement may reach the machine's files, whatever name it finds for them.
    runtime.deregister_object_store(ObjectStoreUrl::local_filesystem().as_ref())?;
    runtime.register_object_store(ObjectStoreUrl::parse(SEGMENTS_URL)?.as_ref(), store.objects());
    let builder = SessionStateBuilder::new()
        .with_config(config(settings))
        .with_runtime_env(Arc::new(runtime))
        .with_analyzer_rules(analyzer_rules())
        .with_optimizer_rules(logical_rules())
        .with_physical_optimizer_rules(optimizer_rules());
    // The one function that a rule looks up by its name.
    Ok(builder.with_aggregate_functions(vec![first_value_udaf()]).build())
}

/// The functions that a statement may call, by name.
fn all_functions(settings: &QuerySettings) -> PlanResult<SessionState> {
    let mut state = SessionStateBuilder::new()
        .with_config(config(settings))
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(SessionStateDefaults::default_scalar_functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_function_list(SessionStateDefaults::default_table_functions())
        .build();
    functions::register(&mut state)?;
    Ok(state)
}

fn config(settings: &QuerySettings) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(settings.threads.max(1))
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false);
    let options = config.options_mut();
    // Names keep their spelling; the statement's were brought to the canonical one before.
    options.sql_parser.enable_ident_normalization = false;
    upstream::settle(&mut options.optimizer);
    options.optimizer.repartition_file_min_size = SPLIT_FILES_BYTES;
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    options.execution.parquet.max_predicate_cache_size = Some(PREDICATE_CACHE_BYTES);
    config
}

/// The rows with these names for their columns.
fn renamed(stream: SendableRecordBatchStream, names: &[String]) -> SendableRecordBatchStream {
    let schema = stream.schema();
    if schema.fields().iter().map(|field| field.name()).eq(names) {
        return stream;
    }
    let fields = schema.fields().iter().zip(names).map(|(field, name)| field.as_ref().clone().with_name(name));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let of = Arc::clone(&schema);
    let batches = stream.map(move |batch| {
        let batch = batch?;
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&of), batch.columns().to_vec(), &rows)?)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

impl View {
    /// Adds the hidden columns that the write path needs.
    pub fn with_hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// Makes the view end when the statement is stopped.
    pub fn in_stage(self, stage: Arc<Stage>) -> Self {
        Self { work: Work::new(stage), ..self }
    }

    /// The plan of a SELECT, VALUES or EXPLAIN. It went through [`functions::prepare`] and [`upstream::rewrite`], and
    /// must not go again.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub fn plan(&self, statement: &ast::Statement) -> Result<LogicalPlan> {
        if !matches!(statement, ast::Statement::Query(_) | ast::Statement::Explain { .. }) {
            return Err(Error::new(ErrorCode::Unsupported, "Only SELECT, VALUES and EXPLAIN read rows."));
        }
        check_functions(statement, self.functions())?;
        self.checked(|| {
            let options = ParserOptions::from(&self.state().config_options().sql_parser);
            let names = Names(self);
            let plan = SqlToRel::new_with_options(&names, options).sql_statement_to_plan(statement.clone())?;
            // `SELECT … INTO` and the like: a query to the parser, not to us.
            let reading = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
            reading
                .verify_plan(&plan)
                .map_err(|error| DataFusionError::NotImplemented(error.message().into_owned()))?;
            self.remember_names(&plan)?;
            let plan = upstream::rewrite_first(plan)?;
            let plan = functions::prepare(plan, self.state().execution_props(), &self.work)?;
            upstream::rewrite(window_arguments::compute_below(plan)?)
        })
    }

    /// The names of a plan's columns in an answer. Names may repeat.
    pub fn column_names(&self, plan: &LogicalPlan) -> Vec<String> {
        let shown = self.shown.lock();
        let names = plan.schema().fields().iter().map(|field| field.name());
        names.map(|name| shown.get(name).unwrap_or(name).clone()).collect()
    }

    fn remember_names(&self, plan: &LogicalPlan) -> PlanResult<()> {
        plan.apply(|node| {
            node.apply_expressions(|expr| {
                if let Expr::Alias(alias) = expr
                    && let Some(shown) = shown(&alias.name, &alias.expr)
                {
                    // The outermost comes first.
                    self.shown.lock().entry(alias.name.clone()).or_insert(shown);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(())
    }

    /// Starts a read; its rows are computed as they are asked for.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub async fn rows(&self, read: &Read, request: &QueryRequest, ticket: &Ticket) -> Result<Rows> {
        let lean = self.lean(&read.statement).map_err(|error| self.error(&error))?;
        let (stream, same_again) = match lean {
            Some(stream) => (stream, true),
            // Planning holds much; a short read's future need not be as large.
            None => Box::pin(self.planned(&read.statement)).await?,
        };
        // A read of somebody else's schema is recorded there each time, so no answer to it is good for a second.
        self.kept(stream, same_again && read.foreign.is_empty(), request, ticket)
    }

    /// Starts a read whose statement was parsed before; `None`: with these values it is to be parsed by itself.
    ///
    /// # Errors
    /// What the snapshot runs into.
    pub fn rows_again(
        &self,
        template: &Template,
        shape: &Shape,
        request: &QueryRequest,
        ticket: &Ticket,
    ) -> Result<Option<Rows>> {
        let lean = self.lean_again(template, shape, request.params.as_ref()).map_err(|error| self.error(&error))?;
        lean.map(|stream| self.kept(stream, true, request, ticket)).transpose()
    }

    /// The rows of an answer, which is kept if it `keeps` as long as no row changes.
    fn kept(
        &self,
        stream: SendableRecordBatchStream,
        keeps: bool,
        request: &QueryRequest,
        ticket: &Ticket,
    ) -> Result<Rows> {
        let cache = self.reader.0.cache.as_ref().filter(|_| keeps);
        let keep = match cache.and_then(|cache| Some((cache, Key::new(&self.caller, request)?))) {
            Some((cache, key)) => {
                // The dependencies are complete now: planning names the tables.
                let dependencies = self.dependencies.lock().clone();
                versions(&self.snapshot, dependencies)?.map(|versions| cache.keep(key, versions))
            }
            None => None,
        };
        let held = Held::new(Arc::clone(&self.memory), self.snapshot.clone(), self.reads_rows());
        Ok(Rows::live(stream, ticket.clone(), self.reader.0.limits, held, keep))
    }

    /// The rows that a plan computes, and whether they are the same another time as long as no row changes.
    pub(crate) async fn planned(&self, statement: &ast::Statement) -> Result<(SendableRecordBatchStream, bool)> {
        let mut plan = self.plan(statement)?;
        let is_query = matches!(statement, ast::Statement::Query(_));
        let same_again = is_query && !self.checked(|| functions::is_volatile_read(&plan))?;
        if is_query {
            // One row more than the answer may have tells that there are more; and a sort that knows how many rows
            // are wanted keeps no others.
            let most = self.reader.0.limits.rows.saturating_add(1);
            plan = self.checked(|| LogicalPlanBuilder::from(plan).limit(0, Some(most))?.build())?;
        }
        Ok((renamed(self.stream(&plan).await?, &self.column_names(&plan)), same_again))
    }

    /// All rows of a plan, within the statement's memory: for the write path.
    ///
    /// # Errors
    /// What is wrong with the statement; `query_too_large` when the rows take more than its share.
    pub async fn collect(&self, plan: LogicalPlan) -> Result<Vec<RecordBatch>> {
        let mut stream = self.stream(&plan).await?;
        let pool: Arc<dyn MemoryPool> = Arc::clone(&self.memory) as _;
        let held = MemoryConsumer::new("rows to write").register(&pool);
        let mut batches = Vec::new();
        while let Some(batch) = stream.try_next().await.map_err(|error| self.error(&error))? {
            held.try_grow(batch.get_array_memory_size()).map_err(|error| self.error(&error))?;
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Messages as the options say, for the write path; the caller's right to them was checked before.
    pub fn messages(&self, owners: &sql::Schema, options: MessageOptions) -> Arc<dyn TableProvider> {
        Arc::new(MessagesTable::new(TableId::Messages.table(), self.snapshot.clone(), owners.clone(), options))
    }

    /// All deleted messages in segments, expired ones too, for the write path; as in [`Self::messages`].
    pub fn cold_trash(&self, owners: &sql::Schema) -> Arc<dyn TableProvider> {
        let options = DeletedOptions { hidden: true, hot: false, after: Micros::MIN };
        Arc::new(DeletedMessages::new(TableId::DeletedMessages.table(), self.snapshot.clone(), owners.clone(), options))
    }

    /// A table as the beginning of a plan; [`Self::collect`] runs it.
    ///
    /// # Errors
    /// A fault of ours only.
    pub fn frame(&self, name: &str, table: Arc<dyn TableProvider>) -> Result<DataFrame> {
        let plan = self.checked(|| LogicalPlanBuilder::scan(name, provider_as_source(table), None)?.build())?;
        Ok(DataFrame::new(self.state().clone(), plan))
    }

    /// The plan of a frame that was built on from [`Self::frame`].
    ///
    /// # Errors
    /// A fault of ours only.
    pub fn built(&self, frame: PlanResult<DataFrame>) -> Result<LogicalPlan> {
        self.checked(|| frame.map(DataFrame::into_unoptimized_plan))
    }

    async fn stream(&self, plan: &LogicalPlan) -> Result<SendableRecordBatchStream> {
        let mut state = self.state().clone();
        state.config_mut().options_mut().extensions.insert(StopSign::of(&self.work));
        let plan = self.checked(|| state.optimize(plan))?;
        // Constants are copied into every row, so large ones make small batches; only now it is known which.
        let rows = self.checked(|| functions::batch_rows(&plan, state.config().batch_size()))?;
        let plan = self.checked(|| functions::watch(plan, &self.work))?;
        *state.config_mut() = state.config().clone().with_batch_size(rows.max(1));
        let physical = state.query_planner().create_physical_plan(&plan, &state).await;
        let physical = physical.map_err(|error| self.planning_error(&error))?;
        execute_stream(physical, self.task(&state)).map_err(|error| self.error(&error))
    }

    /// The task that operators run in: its memory is this statement's, not everybody's.
    fn task(&self, state: &SessionState) -> Arc<TaskContext> {
        let memory_pool: Arc<dyn MemoryPool> = Arc::clone(&self.memory) as _;
        let runtime = RuntimeEnv { memory_pool, ..state.runtime_env().as_ref().clone() };
        let (id, config) = (state.session_id().to_owned(), state.config().clone());
        // Operators hold their functions; only plans that come over a network look them up by name.
        let (scalar, higher_order, aggregate, window) = Default::default();
        Arc::new(TaskContext::new(None, id, config, scalar, higher_order, aggregate, window, Arc::new(runtime)))
    }

    /// Runs `run`, and turns its failure into the client's error.
    ///
    /// # Errors
    /// That.
    pub fn checked<T>(&self, run: impl FnOnce() -> PlanResult<T>) -> Result<T> {
        run().map_err(|error| self.planning_error(&error))
    }

    /// The client's error for a failure before anything ran. DataFusion calls a form of statement that its planner does
    /// not know (a correlated subquery in an unusual place, say) an internal error; to the client it is one to write
    /// otherwise.
    fn planning_error(&self, error: &DataFusionError) -> Error {
        match rowless_error(error, self.memory.refused()) {
            Error { code: ErrorCode::Internal, .. } => Error::new(
                ErrorCode::Unsupported,
                "The planner cannot take a statement of this form; write it in another way, for instance with a join \
                 instead of a subquery.",
            ),
            error => error,
        }
    }

    fn error(&self, error: &DataFusionError) -> Error {
        let of = if self.reads_rows() { client_error } else { rowless_error };
        of(error, self.memory.refused())
    }

    /// Whether the statement names a table; to be asked once it is planned.
    fn reads_rows(&self) -> bool {
        !self.dependencies.lock().is_empty()
    }

    /// The budget of the statement's functions.
    pub fn work(&self) -> &Arc<Work> {
        &self.work
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn now(&self) -> Micros {
        self.now
    }

    pub(super) fn state(&self) -> &SessionState {
        self.state.get_or_init(|| {
            let mut state = self.reader.0.state.clone();
            // The time that `now()` answers.
            state.mark_start_execution();
            state
        })
    }

    /// The functions that a statement may call, by name.
    pub(super) fn functions(&self) -> &SessionState {
        &self.reader.0.functions
    }

    pub(super) fn memory(&self) -> Arc<QueryMemory> {
        Arc::clone(&self.memory)
    }

    pub(super) fn directories(&self) -> &Directories {
        &self.reader.0.directories
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.reader.0.blocks
    }

    /// An owner's segments, decoded once for as long as they stay the same.
    pub(super) fn segments(&self, owner: &UserId) -> PlanResult<Arc<[Segment]>> {
        let cold_version = self.snapshot.owner(owner).map_err(store_error)?.cold_version;
        let key = (owner.clone(), cold_version);
        if let Some(segments) = self.reader.0.segments.get(&key) {
            return Ok(segments);
        }
        let segments: Arc<[Segment]> = self.snapshot.segments(owner).map_err(store_error)?.into();
        self.reader.0.segments.insert(key, Arc::clone(&segments));
        Ok(segments)
    }

    pub(super) fn shows_hidden(&self) -> bool {
        self.hidden
    }

    /// Remembers that the statement reads this.
    pub(super) fn depends_on(&self, dependency: Dependency) {
        self.dependencies.lock().insert(dependency);
    }
}
