//! One pass over the files of a repository: the digest of every file and of every tensor in them, as
//! stored and as canonical values.
//!
//! Each worker reads several files a piece at a time and hands all that a round of pieces adds to any
//! digest to one call of [`update_many`], which computes them side by side.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use leoma_kernels::canonical::{StoredAs, Values, bf16_values, canonical};
use leoma_kernels::sha256::{Sha256, update_many};
use leoma_models::{Error, Result};

use super::disk::Source;
use super::identity::Options;
use super::model_hash::is_weight_file;
use super::tree::{Tree, TreeFile};
use super::weights::{Known, Names, StoredDType, StoredTensor, stored_tensors};

/// Bytes read of a file at a time: what several files have in hand fits the second cache.
const PIECE: usize = 64 << 10;
/// Most files a worker has in hand.
const FILES: usize = 16;
/// Bytes between the beginnings of buffers beyond whole pages, so that pieces of several files do not
/// fight for the same sets of the first cache.
const STAGGER: usize = 320;
/// Most bytes that tensors may claim, as a multiple of their file's: a pickle can describe one storage as
/// many tensors.
const MAX_CLAIM: u64 = 4;

/// What was found in a file.
#[derive(Debug)]
pub(super) struct FileResult {
    pub(super) size: u64,
    pub(super) sha256: [u8; 32],
    pub(super) tensors: Vec<TensorResult>,
    /// Why the tensors of a weight file are not listed.
    pub(super) refused: Option<String>,
}

/// What was found in a tensor.
#[derive(Debug)]
pub(super) struct TensorResult {
    pub(super) tensor: StoredTensor,
    pub(super) known: Option<Known>,
    pub(super) sha256: [u8; 32],
    /// Of the values as bf16; none for bytes that are no weights.
    pub(super) canonical: Option<[u8; 32]>,
    pub(super) values: Values,
}

/// Reads the files of a repository that are not `known` yet; results are in the order of the files.
///
/// # Errors
/// [`Error::Cancelled`]. What goes wrong with a file is its result.
pub(super) fn run(
    tree: &Tree,
    names: &Names,
    options: &Options<'_>,
    known: Vec<Option<FileResult>>,
) -> Result<Vec<Result<FileResult>>> {
    let mut order: Vec<usize> = (0..tree.files.len())
        .filter(|&index| known.get(index).is_none_or(Option::is_none))
        .collect();
    let wanted = order.len();
    // The largest first: what is left for the end is short.
    order.sort_by_key(|&index| std::cmp::Reverse(tree.files.get(index).map_or(0, |f| f.size)));
    let workers = rayon::current_num_threads().clamp(1, order.len().max(1));
    let shared = Shared {
        tree,
        names,
        options,
        next: AtomicUsize::new(0),
        order,
        cancelled: AtomicBool::new(false),
        results: Mutex::new(known.into_iter().map(|result| result.map(Ok)).collect()),
    };
    let in_hand = wanted.div_ceil(workers).clamp(1, FILES);
    rayon::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|_| shared.work(in_hand));
        }
    });
    if shared.cancelled.into_inner() {
        return Err(Error::Cancelled);
    }
    let unfinished = || Err(Error::local("reading ended on an internal error"));
    let results = shared
        .results
        .into_inner()
        .map_err(|_| Error::local("reading ended on an internal error"))?;
    Ok(results
        .into_iter()
        .map(|result| result.unwrap_or_else(unfinished))
        .collect())
}

struct Shared<'a> {
    tree: &'a Tree,
    names: &'a Names,
    options: &'a Options<'a>,
    next: AtomicUsize,
    order: Vec<usize>,
    cancelled: AtomicBool,
    results: Mutex<Vec<Option<Result<FileResult>>>>,
}

impl Shared<'_> {
    /// Works files off, `in_hand` at a time.
    fn work(&self, in_hand: usize) {
        let mut slots: Vec<Slot> = Vec::new();
        loop {
            while slots.len() < in_hand {
                let next = self.next.fetch_add(1, Ordering::Relaxed);
                let Some((&index, file)) = self
                    .order
                    .get(next)
                    .and_then(|index| Some((index, self.tree.files.get(*index)?)))
                else {
                    break;
                };
                match Slot::open(index, file, slots.len(), self) {
                    Ok(slot) => slots.push(slot),
                    Err(error) => self.finish(index, Err(error)),
                }
            }
            if slots.is_empty() {
                return;
            }
            let mut read = 0;
            slots.retain_mut(|slot| match slot.read() {
                Ok(bytes) => {
                    read += bytes;
                    true
                }
                Err(error) => {
                    self.finish(slot.index, Err(error));
                    false
                }
            });
            let mut jobs = Vec::new();
            for slot in &mut slots {
                slot.add_jobs(&mut jobs);
            }
            update_many(&mut jobs);
            let mut kept = Vec::with_capacity(slots.len());
            for mut slot in slots {
                slot.settle();
                if slot.at < slot.source.size() {
                    kept.push(slot);
                } else {
                    self.finish(slot.index, slot.finish());
                }
            }
            slots = kept;
            if !(self.options.progress)(read as u64) {
                self.cancelled.store(true, Ordering::Relaxed);
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn finish(&self, index: usize, result: Result<FileResult>) {
        if let Ok(mut results) = self.results.lock()
            && let Some(place) = results.get_mut(index)
        {
            *place = Some(result);
        }
    }
}

/// A file being read.
struct Slot {
    index: usize,
    source: Source,
    /// Read up to here.
    at: u64,
    hash: Sha256,
    /// Tensors that have not begun, the last one first.
    waiting: Vec<(StoredTensor, Option<Known>)>,
    /// Tensors that the piece in hand has bytes of.
    open: Vec<Open>,
    done: Vec<TensorResult>,
    refused: Option<String>,
    buffer: Vec<u8>,
    /// Where the piece in hand lies in the buffer.
    piece: Range<usize>,
    /// Canonical values of the piece in hand.
    values: Vec<u8>,
}

impl Slot {
    fn open(index: usize, file: &TreeFile, slot: usize, shared: &Shared<'_>) -> Result<Self> {
        let source = Source::open(&file.target, &shared.tree.shown(file))?;
        let (tensors, refused) = if shared.options.tensors && is_weight_file(&file.path) {
            match tensors_of(&source, Path::new(&file.path)) {
                Ok(tensors) => (tensors, None),
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(error) => (Vec::new(), Some(error.to_string())),
            }
        } else {
            (Vec::new(), None)
        };
        let waiting = tensors.into_iter().rev().map(|tensor| {
            let known = shared.names.find(&file.path, &tensor.name).cloned();
            (tensor, known)
        });
        let start = STAGGER * slot;
        Ok(Self {
            index,
            source,
            at: 0,
            hash: Sha256::new(),
            waiting: waiting.collect(),
            open: Vec::new(),
            done: Vec::new(),
            refused,
            buffer: vec![0; start + PIECE],
            piece: start..start,
            values: Vec::new(),
        })
    }

    /// Reads the next piece; how many bytes it has.
    fn read(&mut self) -> Result<usize> {
        let left = self.source.size() - self.at;
        let length = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        let start = self.piece.start;
        self.piece = start..start + length;
        self.source
            .read(&mut self.buffer[self.piece.clone()], self.at)?;
        Ok(length)
    }

    /// All that the piece in hand adds to digests.
    fn add_jobs<'a>(&'a mut self, jobs: &mut Vec<(&'a mut Sha256, &'a [u8])>) {
        let piece = &self.buffer[self.piece.clone()];
        let (begin, end) = (self.at, self.at + piece.len() as u64);
        while self
            .waiting
            .last()
            .is_some_and(|(tensor, _)| tensor.offset < end)
        {
            self.open.extend(
                self.waiting
                    .pop()
                    .map(|(tensor, known)| Open::new(tensor, known)),
            );
        }
        self.values.clear();
        for open in &mut self.open {
            open.take(piece, begin, &mut self.values);
        }
        jobs.push((&mut self.hash, piece));
        for open in &mut self.open {
            jobs.push((&mut open.raw, &piece[open.stored.clone()]));
            if let Form::Own(hash) = &mut open.canonical {
                jobs.push((hash, &self.values[open.values.clone()]));
            }
        }
        self.at = end;
    }

    /// Closes the tensors that have ended.
    fn settle(&mut self) {
        let (mut open, at) = (std::mem::take(&mut self.open), self.at);
        for ended in open.extract_if(.., |open| open.tensor.offset + open.tensor.bytes() <= at) {
            self.done.push(ended.finish());
        }
        self.open = open;
    }

    fn finish(mut self) -> Result<FileResult> {
        // Empty tensors behind the last byte.
        while let Some((tensor, known)) = self.waiting.pop() {
            self.done.push(Open::new(tensor, known).finish());
        }
        self.source.check_unchanged()?;
        self.done.sort_by(|a, b| a.tensor.name.cmp(&b.tensor.name));
        Ok(FileResult {
            size: self.source.size(),
            sha256: self.hash.finish(),
            tensors: self.done,
            refused: self.refused,
        })
    }
}

/// The tensors of a weight file, by position.
fn tensors_of(source: &Source, path: &Path) -> Result<Vec<StoredTensor>> {
    // The reader tells safetensors from archives by the path's ending, which links into a cache have lost.
    let tensors = stored_tensors(source.file(), path)?;
    let claimed = tensors
        .iter()
        .fold(0_u64, |sum, t| sum.saturating_add(t.bytes()));
    if claimed > source.size().saturating_mul(MAX_CLAIM) {
        return Err(Error::artifact(
            source.path(),
            format!(
                "its tensors claim {claimed} bytes of a file of {}; many of them share their values",
                source.size()
            ),
        ));
    }
    Ok(tensors)
}

/// The digest of a tensor's canonical values.
enum Form {
    /// Bytes that are no weights have none.
    None,
    /// So far the stored bytes are the canonical ones.
    Same,
    Own(Sha256),
}

/// A tensor being read.
struct Open {
    tensor: StoredTensor,
    known: Option<Known>,
    codes: Option<[f32; 256]>,
    raw: Sha256,
    canonical: Form,
    found: Values,
    /// Elements taken.
    elements: usize,
    /// The beginning of an element that the piece before ended in.
    carry: [u8; 8],
    carried: usize,
    /// Whole elements in the piece in hand, and their canonical values.
    stored: Range<usize>,
    values: Range<usize>,
}

impl Open {
    fn new(tensor: StoredTensor, known: Option<Known>) -> Self {
        let (mut raw, mut canonical) = (Sha256::new(), Sha256::new());
        raw.update(heading(tensor.dtype, &tensor.shape).as_bytes());
        canonical.update(heading(StoredDType::BF16, &tensor.shape).as_bytes());
        let scaled = known.as_ref().is_some_and(|known| !known.scales.is_empty());
        Self {
            canonical: match tensor.dtype {
                StoredDType::U8 => Form::None,
                // Without their scale such codes have no values.
                StoredDType::I8 if !scaled => Form::None,
                StoredDType::BF16 => Form::Same,
                _ => Form::Own(canonical),
            },
            codes: tensor.dtype.code_values(),
            raw,
            tensor,
            known,
            found: Values::default(),
            elements: 0,
            carry: [0; 8],
            carried: 0,
            stored: 0..0,
            values: 0..0,
        }
    }

    /// Takes what `piece`, which lies at `begin` in the file, has of this tensor. Whole elements are left
    /// for the caller to hash; an element between two pieces is hashed here.
    fn take(&mut self, piece: &[u8], begin: u64, values: &mut Vec<u8>) {
        let size = self.tensor.dtype.size();
        let end = begin + piece.len() as u64;
        let from = self.tensor.offset.clamp(begin, end);
        let to = (self.tensor.offset + self.tensor.bytes()).clamp(from, end);
        let (mut from, mut to) = ((from - begin) as usize, (to - begin) as usize);
        if self.carried > 0 {
            let more = (size - self.carried).min(to - from);
            self.carry[self.carried..self.carried + more]
                .copy_from_slice(&piece[from..from + more]);
            self.carried += more;
            from += more;
            if self.carried == size {
                let mut out = Vec::with_capacity(2);
                let element = self.carry;
                self.convert(&element[..size], &mut out);
                if let Form::Own(hash) = &mut self.canonical {
                    hash.update(&out);
                }
                self.raw.update(&element[..size]);
                self.carried = 0;
            }
        }
        let rest = (to - from) % size;
        if rest > 0 {
            self.carry[..rest].copy_from_slice(&piece[to - rest..to]);
            self.carried = rest;
            to -= rest;
        }
        let start = values.len();
        self.convert(&piece[from..to], values);
        self.stored = from..to;
        self.values = start..values.len();
    }

    /// Appends the canonical values of whole elements that have not been hashed yet.
    fn convert(&mut self, bytes: &[u8], values: &mut Vec<u8>) {
        if matches!(self.canonical, Form::None) {
            return;
        }
        let size = self.tensor.dtype.size();
        let start = values.len();
        if matches!(self.canonical, Form::Same) {
            let found = bf16_values(bytes);
            if !found.respelled {
                self.elements += bytes.len() / size;
                self.found = self.found.and(found);
                return;
            }
            self.canonical = Form::Own(self.raw.clone());
        }
        values.resize(start + bytes.len() / size * 2, 0);
        let out = &mut values[start..];
        let found = match (&self.codes, self.tensor.dtype) {
            (Some(codes), _) => {
                let scales = self.known.as_ref().map_or(&[][..], |known| &known.scales);
                convert_codes(bytes, self.elements, &self.tensor, codes, scales, out)
            }
            (None, StoredDType::F64) => canonical(StoredAs::F64, bytes, out),
            (None, StoredDType::F16) => canonical(StoredAs::F16, bytes, out),
            (None, StoredDType::BF16) => canonical(StoredAs::Bf16, bytes, out),
            (None, _) => canonical(StoredAs::F32, bytes, out),
        };
        self.elements += bytes.len() / size;
        self.found = self.found.and(found);
    }

    fn finish(self) -> TensorResult {
        let sha256 = self.raw.finish();
        TensorResult {
            tensor: self.tensor,
            known: self.known,
            canonical: match self.canonical {
                Form::None => None,
                Form::Same => Some(sha256),
                Form::Own(hash) => Some(hash.finish()),
            },
            sha256,
            values: self.found,
        }
    }
}

/// What stands before a tensor's bytes in its digests: type and shape.
fn heading(dtype: StoredDType, shape: &[usize]) -> String {
    let lengths: Vec<_> = shape.iter().map(ToString::to_string).collect();
    format!("{} [{}]\n", dtype.as_str(), lengths.join(","))
}

/// Canonical values of codes, the first of which is element number `first`: row by row where every row has
/// a scale of its own.
fn convert_codes(
    mut bytes: &[u8],
    mut first: usize,
    tensor: &StoredTensor,
    codes: &[f32; 256],
    scales: &[f32],
    mut out: &mut [u8],
) -> Values {
    let width = match scales.len() {
        0 | 1 => usize::MAX,
        rows => (tensor.elements() / rows).max(1),
    };
    let mut found = Values::default();
    while !bytes.is_empty() {
        let take = bytes.len().min(width - first % width);
        let scale = scales.get(first / width).copied().unwrap_or(1.0);
        let (now, later) = bytes.split_at(take);
        let (here, there) = out.split_at_mut(2 * take);
        let stored = StoredAs::Codes {
            values: codes,
            scale,
        };
        found = found.and(canonical(stored, now, here));
        (bytes, out) = (later, there);
        first += take;
    }
    found
}
