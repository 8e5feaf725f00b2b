//! cuDNN's graph API: a graph of operations on strided tensors becomes an execution plan, which then runs
//! on any addresses.
//!
//! ```text
//! tensors (TensorSpec) -> operations (Descriptor) -> Plan::build -> Plan::execute
//! ```
//! A [`Descriptor`] is destroyed with its value; what refers to another one is kept no longer than that
//! (a [`Plan`] holds everything it was built from). Every failure names the call, the descriptor and the
//! attribute.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use super::names::{Attribute, DataType, HeurMode, Kind, Note, Type};
use super::{Error, Library, Pointer, Result};

/// A cuDNN handle: a context on one device, with the stream that plans run on.
pub(crate) struct Handle {
    library: Arc<Library>,
    raw: Pointer,
}

// SAFETY: cuDNN's handles belong to no thread; one thread at a time may use one, which `&mut` or a lock
// around the owner ensures (`Plan::execute` takes `&mut Handle`).
unsafe impl Send for Handle {}

impl Handle {
    /// A handle on the current device for `stream` (null: the default stream).
    ///
    /// # Safety
    /// `stream` must be a stream of the current CUDA context, and both must outlive the handle.
    pub(crate) unsafe fn new(library: &Arc<Library>, stream: Pointer) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: writes one pointer.
        let status = unsafe { (library.functions.create)(&raw mut raw) };
        library.check(status, || "cudnnCreate".into())?;
        let handle = Self {
            library: library.clone(),
            raw,
        };
        // SAFETY: a live handle; the caller vouches for the stream.
        let status = unsafe { (library.functions.set_stream)(raw, stream) };
        library.check(status, || "cudnnSetStream".into())?;
        Ok(handle)
    }

    pub(crate) fn library(&self) -> &Arc<Library> {
        &self.library
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by cudnnCreate, destroyed once. There is nobody left to tell of a failure.
        unsafe { (self.library.functions.destroy)(self.raw) };
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle of {:?}", self.library)
    }
}

/// A descriptor of the backend API. Attributes are set one by one, then [`finalize`](Self::finalize).
pub(crate) struct Descriptor {
    library: Arc<Library>,
    kind: Kind,
    raw: Pointer,
}

// SAFETY: descriptors belong to no thread; they are changed through `&mut` only.
unsafe impl Send for Descriptor {}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor {:?}", self.kind)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by cudnnBackendCreateDescriptor, destroyed once.
        unsafe { (self.library.functions.backend_destroy_descriptor)(self.raw) };
    }
}

impl Descriptor {
    pub(crate) fn new(library: &Arc<Library>, kind: Kind) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: writes one pointer.
        let status =
            unsafe { (library.functions.backend_create_descriptor)(kind as c_int, &raw mut raw) };
        library.check(status, || {
            format!("cudnnBackendCreateDescriptor({kind:?}_DESCRIPTOR)")
        })?;
        Ok(Self {
            library: library.clone(),
            kind,
            raw,
        })
    }

    pub(crate) fn int64s(&mut self, attribute: Attribute, values: &[i64]) -> Result<&mut Self> {
        self.set(attribute, Type::INT64, values)
    }

    pub(crate) fn boolean(&mut self, attribute: Attribute, value: bool) -> Result<&mut Self> {
        self.set(attribute, Type::BOOLEAN, &[value])
    }

    pub(crate) fn data_type(&mut self, attribute: Attribute, value: DataType) -> Result<&mut Self> {
        self.set(attribute, Type::DATA_TYPE, &[value as c_int])
    }

    /// One of cuDNN's enumerations, with the type that the attribute wants.
    pub(crate) fn choice(
        &mut self,
        attribute: Attribute,
        of: Type,
        value: c_int,
    ) -> Result<&mut Self> {
        self.set(attribute, of, &[value])
    }

    #[allow(dead_code)] // factors of a convolution
    pub(crate) fn float(&mut self, attribute: Attribute, value: f32) -> Result<&mut Self> {
        self.set(attribute, Type::FLOAT, &[value])
    }

    pub(crate) fn handle(&mut self, attribute: Attribute, handle: &Handle) -> Result<&mut Self> {
        self.set(attribute, Type::HANDLE, &[handle.raw])
    }

    pub(crate) fn descriptors(
        &mut self,
        attribute: Attribute,
        values: &[&Descriptor],
    ) -> Result<&mut Self> {
        let raw: Vec<Pointer> = values.iter().map(|descriptor| descriptor.raw).collect();
        self.set(attribute, Type::BACKEND_DESCRIPTOR, &raw)
    }

    pub(crate) fn pointers(
        &mut self,
        attribute: Attribute,
        values: &[Pointer],
    ) -> Result<&mut Self> {
        self.set(attribute, Type::VOID_PTR, values)
    }

    /// Ends the setting of attributes; cuDNN checks them here.
    pub(crate) fn finalize(&mut self) -> Result<()> {
        // SAFETY: a live descriptor.
        let status = unsafe { (self.library.functions.backend_finalize)(self.raw) };
        self.library.check(status, || {
            format!("cudnnBackendFinalize({:?}_DESCRIPTOR)", self.kind)
        })
    }

    /// `values` have the layout that cuDNN wants for `of`; [`Type`] and element type go together in the
    /// methods above.
    fn set<T: Copy>(&mut self, attribute: Attribute, of: Type, values: &[T]) -> Result<&mut Self> {
        // SAFETY: reads `values.len()` elements of the type named; copies them.
        let status = unsafe {
            (self.library.functions.backend_set_attribute)(
                self.raw,
                attribute as c_int,
                of as c_int,
                values.len() as i64,
                values.as_ptr().cast(),
            )
        };
        self.library.check(status, || {
            format!(
                "cudnnBackendSetAttribute({:?}_DESCRIPTOR, {attribute:?})",
                self.kind
            )
        })?;
        Ok(self)
    }

    /// As many elements as fit into `values`; returns how many there are.
    fn get<T: Copy>(&self, attribute: Attribute, of: Type, values: &mut [T]) -> Result<usize> {
        let mut count = 0i64;
        let target: *mut c_void = if values.is_empty() {
            ptr::null_mut()
        } else {
            values.as_mut_ptr().cast()
        };
        // SAFETY: writes at most `values.len()` elements of the type named, and the count.
        let status = unsafe {
            (self.library.functions.backend_get_attribute)(
                self.raw,
                attribute as c_int,
                of as c_int,
                values.len() as i64,
                &raw mut count,
                target,
            )
        };
        self.library.check(status, || {
            format!(
                "cudnnBackendGetAttribute({:?}_DESCRIPTOR, {attribute:?})",
                self.kind
            )
        })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    fn get_int64(&self, attribute: Attribute) -> Result<i64> {
        let mut value = [0i64];
        self.get(attribute, Type::INT64, &mut value)?;
        Ok(value[0])
    }
}

/// A tensor of a graph. Its address comes with the execution, under its `uid`.
#[derive(Debug, Clone)]
pub(crate) struct TensorSpec<'a> {
    /// Unique in the graph.
    pub(crate) uid: i64,
    pub(crate) dtype: DataType,
    pub(crate) dims: &'a [i64],
    /// In elements.
    pub(crate) strides: &'a [i64],
    /// What the address is a multiple of.
    pub(crate) alignment_bytes: i64,
    /// A scalar whose address is on the host.
    pub(crate) by_value: bool,
}

impl TensorSpec<'_> {
    /// The tensor's descriptor.
    pub(crate) fn describe(&self, library: &Arc<Library>) -> Result<Descriptor> {
        let mut tensor = Descriptor::new(library, Kind::TENSOR)?;
        tensor
            .data_type(Attribute::TENSOR_DATA_TYPE, self.dtype)?
            .int64s(Attribute::TENSOR_DIMENSIONS, self.dims)?
            .int64s(Attribute::TENSOR_STRIDES, self.strides)?
            .int64s(Attribute::TENSOR_UNIQUE_ID, &[self.uid])?
            .int64s(Attribute::TENSOR_BYTE_ALIGNMENT, &[self.alignment_bytes])?;
        if self.by_value {
            tensor.boolean(Attribute::TENSOR_IS_BY_VALUE, true)?;
        }
        tensor.finalize()?;
        Ok(tensor)
    }
}

/// What an engine must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits<'a> {
    /// Engines that say one of these about themselves are passed over.
    pub(crate) refuse: &'a [Note],
    /// Engines that need more workspace are passed over.
    pub(crate) workspace_bytes: usize,
}

/// A graph with the engine that runs it.
#[derive(Debug)]
pub(crate) struct Plan {
    plan: Descriptor,
    workspace_bytes: usize,
    engine: Option<i64>,
    /// What the plan refers to: operations, tensors, graph, engine; after it, so that it goes first.
    _parts: Vec<Descriptor>,
}

impl Plan {
    /// Builds the graph of `operations` (which refer to `parts`) and takes the first engine that the
    /// heuristics propose, that keeps to `limits` and that accepts the graph.
    pub(crate) fn build(
        handle: &Handle,
        operations: Vec<Descriptor>,
        parts: Vec<Descriptor>,
        limits: &Limits<'_>,
    ) -> Result<Self> {
        let library = handle.library();
        let mut graph = Descriptor::new(library, Kind::OPERATIONGRAPH)?;
        let references: Vec<&Descriptor> = operations.iter().collect();
        graph
            .descriptors(Attribute::OPERATIONGRAPH_OPS, &references)?
            .handle(Attribute::OPERATIONGRAPH_HANDLE, handle)?
            .finalize()?;
        let (mut tried, mut last) = (0, String::from("the heuristics propose none"));
        for mode in [HeurMode::A, HeurMode::FALLBACK] {
            let configs = match proposals(&graph, mode) {
                Ok(configs) => configs,
                Err(error) => {
                    last = error.to_string();
                    continue;
                }
            };
            for config in configs {
                tried += 1;
                match engine(handle, &config, limits) {
                    Ok((plan, workspace_bytes, index)) => {
                        let mut held = vec![config, graph];
                        held.extend(operations);
                        held.extend(parts);
                        return Ok(Self {
                            plan,
                            workspace_bytes,
                            engine: index,
                            _parts: held,
                        });
                    }
                    Err(refusal) => last = refusal,
                }
            }
        }
        Err(Error::NoEngine { tried, last })
    }

    /// Memory that an execution needs beside its tensors.
    pub(crate) fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// cuDNN's number of the engine, for reports.
    #[allow(dead_code)]
    pub(crate) fn engine(&self) -> Option<i64> {
        self.engine
    }

    /// Enqueues the plan on the handle's stream. `tensors`: address by `uid`; host addresses for tensors by
    /// value, which are read before this returns.
    ///
    /// # Safety
    /// The handle must be one of the device that the plan was built for, with its context current. Every
    /// tensor of the graph must have an address with as many elements as its dimensions and strides
    /// reach, valid until the stream has run the plan; so must the workspace of
    /// [`workspace_bytes`](Self::workspace_bytes).
    pub(crate) unsafe fn execute(
        &self,
        handle: &mut Handle,
        tensors: &[(i64, Pointer)],
        workspace: Pointer,
    ) -> Result<()> {
        let (uids, addresses): (Vec<i64>, Vec<Pointer>) = tensors.iter().copied().unzip();
        let mut pack = Descriptor::new(&self.plan.library, Kind::VARIANT_PACK)?;
        pack.pointers(Attribute::VARIANT_PACK_DATA_POINTERS, &addresses)?
            .int64s(Attribute::VARIANT_PACK_UNIQUE_IDS, &uids)?
            .pointers(Attribute::VARIANT_PACK_WORKSPACE, &[workspace])?
            .finalize()?;
        // SAFETY: live descriptors; the caller vouches for handle and addresses.
        let status = unsafe {
            (handle.library.functions.backend_execute)(handle.raw, self.plan.raw, pack.raw)
        };
        handle
            .library
            .check(status, || "cudnnBackendExecute".into())
    }
}

/// Engine configurations for the graph, best first.
fn proposals(graph: &Descriptor, mode: HeurMode) -> Result<Vec<Descriptor>> {
    let library = &graph.library;
    let mut heuristics = Descriptor::new(library, Kind::ENGINEHEUR)?;
    heuristics
        .descriptors(Attribute::ENGINEHEUR_OPERATION_GRAPH, &[graph])?
        .choice(Attribute::ENGINEHEUR_MODE, Type::HEUR_MODE, mode as c_int)?
        .finalize()?;
    let results = Attribute::ENGINEHEUR_RESULTS;
    let count = heuristics.get::<Pointer>(results, Type::BACKEND_DESCRIPTOR, &mut [])?;
    let mut configs = (0..count)
        .map(|_| Descriptor::new(library, Kind::ENGINECFG))
        .collect::<Result<Vec<_>>>()?;
    if count > 0 {
        let mut raw: Vec<Pointer> = configs.iter().map(|config| config.raw).collect();
        let found = heuristics.get(results, Type::BACKEND_DESCRIPTOR, &mut raw)?;
        configs.truncate(found);
    }
    Ok(configs)
}

/// The plan of one configuration with its workspace and engine, or why not.
fn engine(
    handle: &Handle,
    config: &Descriptor,
    limits: &Limits<'_>,
) -> std::result::Result<(Descriptor, usize, Option<i64>), String> {
    let (index, notes) = about(config);
    let name = index.map_or_else(|| "an engine".to_owned(), |index| format!("engine {index}"));
    if let Some(note) = limits
        .refuse
        .iter()
        .find(|note| notes.contains(&(**note as c_int)))
    {
        return Err(format!("{name} is passed over: {note:?}"));
    }
    let build = || -> Result<(Descriptor, i64)> {
        let mut plan = Descriptor::new(handle.library(), Kind::EXECUTION_PLAN)?;
        plan.descriptors(Attribute::EXECUTION_PLAN_ENGINE_CONFIG, &[config])?
            .handle(Attribute::EXECUTION_PLAN_HANDLE, handle)?
            .finalize()?;
        let workspace = plan.get_int64(Attribute::EXECUTION_PLAN_WORKSPACE_SIZE)?;
        Ok((plan, workspace))
    };
    let (plan, workspace) = build().map_err(|error| error.to_string())?;
    let Ok(workspace) = usize::try_from(workspace) else {
        return Err(format!("{name} wants {workspace} bytes of workspace"));
    };
    if workspace > limits.workspace_bytes {
        return Err(format!(
            "{name} wants {workspace} bytes of workspace, {} are allowed",
            limits.workspace_bytes
        ));
    }
    Ok((plan, workspace, index))
}

/// Number and notes of a configuration's engine. A library that does not tell is taken at its word: what
/// is not said cannot be refused.
fn about(config: &Descriptor) -> (Option<i64>, Vec<c_int>) {
    /// More notes than cuDNN has kinds of.
    const NOTES: usize = 64;
    let Ok(engine) = Descriptor::new(&config.library, Kind::ENGINE) else {
        return (None, Vec::new());
    };
    let mut raw = [engine.raw];
    let known = config.get(
        Attribute::ENGINECFG_ENGINE,
        Type::BACKEND_DESCRIPTOR,
        &mut raw,
    );
    if known.is_err() {
        return (None, Vec::new());
    }
    let index = engine.get_int64(Attribute::ENGINE_GLOBAL_INDEX).ok();
    let mut notes = vec![0; NOTES];
    let count = engine
        .get(
            Attribute::ENGINE_NUMERICAL_NOTE,
            Type::NUMERICAL_NOTE,
            &mut notes,
        )
        .unwrap_or(0);
    notes.truncate(count);
    (index, notes)
}
