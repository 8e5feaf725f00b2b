//! An account of memory: what is held now and the most there has been.
//!
//! A plan runs the model on allocations instead of tensors: [`Bytes`] behaves as a tensor's storage does
//! (clones share it, the last one to go frees it), so the code of a plan is that of the model, line by
//! line, and its peaks are the model's.

use std::cell::RefCell;
use std::rc::Rc;

use leoma_kernels::memory;
use serde::Serialize;

/// Which memory bytes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// The accelerator's own.
    Device,
    /// The machine's.
    Host,
}

impl Memory {
    /// Both, the accelerator's first.
    pub const ALL: [Self; 2] = [Self::Device, Self::Host];
}

/// What bytes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Weights,
    Work,
}

#[derive(Debug, Default)]
struct Account {
    /// By memory.
    weights: [u64; 2],
    work: [u64; 2],
    most_weights: [u64; 2],
    peak: [u64; 2],
    /// Scratch memory that each thread keeps.
    scratch: u64,
}

impl Account {
    fn change(&mut self, memory: Memory, purpose: Use, bytes: u64, taken: bool) {
        let at = memory as usize;
        let held = match purpose {
            Use::Weights => &mut self.weights[at],
            Use::Work => &mut self.work[at],
        };
        *held = if taken {
            *held + bytes
        } else {
            held.saturating_sub(bytes)
        };
        self.most_weights[at] = self.most_weights[at].max(self.weights[at]);
        self.peak[at] = self.peak[at].max(self.weights[at] + self.work[at]);
    }
}

/// The account of one run. Clones are the same account.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Rc<RefCell<Account>>);

impl Ledger {
    fn take(&self, memory: Memory, purpose: Use, bytes: usize) -> Bytes {
        let bytes = bytes as u64;
        self.0.borrow_mut().change(memory, purpose, bytes, true);
        Bytes {
            _owned: Rc::new(Owned {
                ledger: self.clone(),
                memory,
                purpose,
                bytes,
            }),
        }
    }

    /// Largest of weights, and of everything, since the last call.
    pub(super) fn stage(&self, memory: Memory) -> (u64, u64) {
        let at = memory as usize;
        let account = &mut *self.0.borrow_mut();
        let found = (account.most_weights[at], account.peak[at]);
        account.most_weights[at] = account.weights[at];
        account.peak[at] = account.weights[at] + account.work[at];
        found
    }

    /// Bytes held now.
    pub(super) fn held(&self, memory: Memory) -> u64 {
        let account = self.0.borrow();
        account.weights[memory as usize] + account.work[memory as usize]
    }
}

/// Bytes of one allocation; freed with its last clone.
#[derive(Debug, Clone)]
pub(super) struct Bytes {
    _owned: Rc<Owned>,
}

#[derive(Debug)]
struct Owned {
    ledger: Ledger,
    memory: Memory,
    purpose: Use,
    bytes: u64,
}

impl Drop for Owned {
    fn drop(&mut self) {
        let account = &mut *self.ledger.0.borrow_mut();
        account.change(self.memory, self.purpose, self.bytes, false);
    }
}

/// Where a network runs, and what its operations allocate there.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) ledger: Ledger,
    pub(super) memory: Memory,
    /// The CPU's fast paths; false on an accelerator.
    pub(super) cpu: bool,
    /// Threads of the CPU's fast paths.
    pub(super) threads: usize,
    /// Bytes of an element of the compute type.
    pub(super) element: usize,
    /// Bytes of an element of the residual stream, the velocity and the VAE.
    pub(super) wide: usize,
}

/// Bytes of an element of f32.
pub(super) const F32: usize = 4;

impl Machine {
    /// For what computes in the wider type.
    pub(super) fn widened(&self) -> Self {
        Self {
            element: self.wide,
            ..self.clone()
        }
    }

    /// `count` elements of `element` bytes.
    pub(super) fn bytes(&self, count: usize, element: usize) -> Bytes {
        self.ledger.take(self.memory, Use::Work, count * element)
    }

    /// `count` elements of the compute type: what an element-wise or row-wise operation makes.
    pub(super) fn rows(&self, count: usize) -> Bytes {
        self.bytes(count, self.element)
    }

    /// `count` elements of f32.
    pub(super) fn f32(&self, count: usize) -> Bytes {
        self.bytes(count, F32)
    }

    /// A conversion of `x`, `count` elements of the compute type, to f32: `x` itself where it is f32.
    pub(super) fn to_f32(&self, x: Bytes, count: usize) -> Bytes {
        if self.element == F32 {
            x
        } else {
            self.f32(count)
        }
    }

    /// Weights of `bytes` bytes that stay.
    pub(super) fn weights(&self, bytes: usize) -> Bytes {
        self.ledger.take(self.memory, Use::Weights, bytes)
    }

    /// What a product makes: the CPU sums in f32 and rounds at the end, an accelerator writes the result.
    fn product(&self, count: usize) -> Bytes {
        if !self.cpu || self.element == F32 {
            return self.rows(count);
        }
        let _sums = self.f32(count);
        self.rows(count)
    }

    /// Grows the scratch memory that every thread keeps.
    fn scratch(&self, per_thread: usize) {
        if !self.cpu {
            return;
        }
        let account = &mut *self.ledger.0.borrow_mut();
        let per_thread = per_thread as u64;
        if per_thread > account.scratch {
            let more = (per_thread - account.scratch) * self.threads as u64;
            account.scratch = per_thread;
            account.change(self.memory, Use::Work, more, true);
        }
    }

    /// `[rows, _] x W^T` → `[rows, columns]`.
    pub(super) fn linear(&self, rows: usize, columns: usize) -> Bytes {
        self.scratch(memory::gemm_scratch(rows));
        self.product(rows * columns)
    }

    /// Attention of `queries` over `keys` for `heads` heads `width` wide.
    pub(super) fn attention(
        &self,
        queries: usize,
        keys: usize,
        heads: usize,
        width: usize,
    ) -> Bytes {
        let count = queries * heads * width;
        if !self.cpu {
            return self.rows(count);
        }
        self.scratch(memory::attention_scratch(queries, width));
        let sums = self.f32(count);
        drop(self.bytes(
            memory::attention_packed(keys, heads, width, self.threads),
            1,
        ));
        if self.element == F32 {
            return sums;
        }
        self.rows(count)
    }

    /// A convolution to `rows` pixels of `columns` channels, with or without a residual of that shape;
    /// `doubled` as [`memory::is_doubled`].
    pub(super) fn conv(&self, rows: usize, columns: usize, residual: bool, doubled: bool) -> Bytes {
        let count = rows * columns;
        if !self.cpu {
            return self.rows(count);
        }
        let widened = (residual && self.element != F32).then(|| {
            // Widened as a tensor, then copied out of it.
            let _tensor = self.f32(count);
            self.f32(count)
        });
        let sums = self.f32(count);
        if doubled {
            self.scratch(memory::gemm_scratch(rows / 4));
            drop(self.f32(count / 4));
        } else {
            self.scratch(memory::gemm_scratch(rows));
        }
        if self.element == F32 {
            return sums;
        }
        let result = self.rows(count);
        drop((sums, widened));
        result
    }
}

/// What loading one layer takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layer {
    /// The tensor as it is read, in the compute type; on the host first.
    pub(super) raw: usize,
    /// What else is needed while the layer is built.
    pub(super) passing: usize,
    /// What stays.
    pub(super) held: usize,
}

impl Layer {
    /// A tensor kept as it is, `count` elements of `element` bytes.
    pub(super) fn plain(count: usize, element: usize) -> Self {
        Self {
            raw: 0,
            passing: 0,
            held: count * element,
        }
    }

    /// A linear layer with or without bias.
    pub(super) fn linear(m: &Machine, inputs: usize, outputs: usize, bias: bool) -> Self {
        let raw = inputs * outputs * m.element;
        let bias = usize::from(bias) * outputs;
        if m.cpu {
            Self {
                raw,
                passing: 0,
                held: memory::linear_weight(outputs, inputs, m.element) + bias * F32,
            }
        } else {
            Self {
                raw: 0,
                passing: 0,
                held: raw + bias * m.element,
            }
        }
    }
}

/// Bytes that stay of `layers`.
pub(super) fn held(layers: &[Layer]) -> usize {
    layers.iter().map(|layer| layer.held).sum()
}

/// The loader's buffers for a tensor of `elements` elements, stored in f32 at worst.
pub(super) fn buffers(elements: usize) -> usize {
    crate::weights::read_buffers(elements * F32)
}

/// The most bytes at once while `layers` are loaded in order, as [`load`] takes them.
pub(super) fn loading_peak(m: &Machine, layers: &[Layer]) -> usize {
    let mut before = 0;
    let mut most = 0;
    for layer in layers {
        let buffers = buffers(layer.raw.max(layer.held) / m.element);
        let reading = layer.raw + layer.passing + buffers;
        let building = match layer.raw {
            0 => layer.held + buffers,
            raw => raw + layer.passing + layer.held,
        };
        most = most.max(before + reading.max(building));
        before += layer.held;
    }
    most
}

/// Loads `layers` in order.
pub(super) fn load(m: &Machine, layers: &[Layer]) -> Vec<Bytes> {
    layers
        .iter()
        .map(|layer| {
            let elements = layer.raw.max(layer.held) / m.element;
            let buffers = m.ledger.take(Memory::Host, Use::Work, buffers(elements));
            let raw = m.bytes(layer.raw, 1);
            let passing = m.bytes(layer.passing, 1);
            if layer.raw == 0 {
                // Kept as it is read: the buffers are there while it fills.
                let held = m.weights(layer.held);
                drop(buffers);
                return held;
            }
            drop(buffers);
            let held = m.weights(layer.held);
            drop((raw, passing));
            held
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(element: usize, cpu: bool) -> Machine {
        Machine {
            ledger: Ledger::default(),
            memory: Memory::Host,
            cpu,
            threads: 2,
            element,
            wide: element,
        }
    }

    #[test]
    fn the_last_clone_frees() {
        let m = machine(2, false);
        let a = m.rows(10);
        let b = a.clone();
        drop(a);
        assert_eq!(m.ledger.held(Memory::Host), 20);
        let c = m.f32(5);
        drop((b, c));
        assert_eq!(m.ledger.held(Memory::Host), 0);
        assert_eq!(m.ledger.stage(Memory::Host), (0, 40));
        assert_eq!(m.ledger.stage(Memory::Host), (0, 0));
        assert_eq!(m.ledger.held(Memory::Device), 0);
    }

    #[test]
    fn a_product_in_half_precision_is_summed_in_f32_on_the_cpu() {
        let m = machine(2, true);
        let scratch = memory::gemm_scratch(100) * 2;
        let y = m.linear(100, 30);
        let (_, peak) = m.ledger.stage(Memory::Host);
        assert_eq!(peak, (scratch + 100 * 30 * (4 + 2)) as u64);
        drop(y);
        assert_eq!(m.ledger.held(Memory::Host), scratch as u64);
        let m = machine(2, false);
        drop(m.linear(100, 30));
        assert_eq!(m.ledger.stage(Memory::Host).1, 100 * 30 * 2);
    }
}
