//! Which instruction set the CPU kernels use: decided once per process from what the processor has.
//!
//! `LEOMA_KERNELS_ISA=scalar|avx2|avx512` asks for a lesser one (an unavailable or unknown name is
//! ignored).

use std::cell::Cell;
use std::sync::OnceLock;

/// An instruction set that this processor has: [`Isa::available`] and [`Isa::current`] are the only
/// sources of values, so holding one is the proof that its kernels may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Plain Rust, vectorised by the compiler for the build's baseline.
    Scalar,
    #[cfg(target_arch = "x86_64")]
    /// AVX2 with FMA and F16C.
    Avx2,
    #[cfg(target_arch = "x86_64")]
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// All instruction sets this processor can run, the plainest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa(Kind::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Isa(Kind::Avx2));
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                found.push(Isa(Kind::Avx512));
            }
        }
        found
    }

    /// The instruction set that operations started on this thread use.
    pub fn current() -> Isa {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        FORCED.get().unwrap_or_else(|| {
            *CHOSEN.get_or_init(|| {
                let available = Self::available();
                let best = available.last().copied().unwrap_or(Isa(Kind::Scalar));
                let wanted = std::env::var("LEOMA_KERNELS_ISA").unwrap_or_default();
                available
                    .into_iter()
                    .find(|isa| isa.name() == wanted)
                    .unwrap_or(best)
            })
        })
    }

    /// Runs `work` with the operations started on this thread using this instruction set. For tests
    /// and measurements: layers built inside keep it.
    pub fn scope<R>(self, work: impl FnOnce() -> R) -> R {
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        let _restore = Restore(FORCED.replace(Some(self)));
        work()
    }

    /// Its name as `LEOMA_KERNELS_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }
}
