//! The numbers at which gates close, as one versioned table.
//!
//! Version 1. `docs/judge-signals.md` says which values come from a study on 28 short real and generated clips;
//! the others were set on the generated clips of [`crate::judge::metamorphic`] with the seeds reserved for
//! thresholds, never with those of the report. None of them is tuned on human verdicts.

/// The table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Changes whenever a value does; part of what a verdict records.
    pub version: u32,
    /// `freeze_share` above which a clip is frozen.
    pub freeze_share: f64,
    /// `ff_align` below which frame 0 is another picture.
    pub ff_align: f64,
    /// `ff_align` below which a low `ff_corr` says the same.
    pub ff_align_smooth: f64,
    /// That `ff_corr`.
    pub ff_corr: f64,
    /// DINOv2 cosine of conditioning image and frame 0 that overrules `ff_align`, where it is known.
    pub dino_first: f64,
    /// `first_jump` above which the first step stands out …
    pub first_jump: f64,
    /// … and `ff_min4` below which the frames after it are another picture.
    pub ff_min4: f64,
    /// `scene` above which there is a cut.
    pub scene: f64,
    /// `histmax` above which there is a cut.
    pub histmax: f64,
    /// `luma_hf` above which brightness flickers.
    pub luma_hf: f64,
    /// `still_zoom` above which a still was zoomed.
    pub still_zoom: f64,
    /// `overlay` above which there is writing.
    pub overlay: f64,
    /// `lap_rel` below which a clip is blurred.
    pub lap_rel: f64,
    /// `block` above which blocks show.
    pub block: f64,
    /// `order` above which frames are out of order.
    pub order: f64,
    /// `ff_chroma` above which frame 0 has a colour cast.
    pub ff_chroma: f64,
    /// `tail_gap` above which the tail differs from what the remote judge sees.
    pub tail_gap: f64,
}

impl Thresholds {
    /// The table of this version.
    pub const V1: Self = Self {
        version: 1,
        freeze_share: 0.40,
        ff_align: 0.55,
        ff_align_smooth: 0.8,
        ff_corr: 0.4,
        dino_first: 0.60,
        first_jump: 2.5,
        ff_min4: 0.65,
        scene: 0.25,
        histmax: 0.5,
        luma_hf: 6.0,
        still_zoom: 0.98,
        overlay: 0.01,
        lap_rel: 0.20,
        block: 1.5,
        order: 0.06,
        ff_chroma: 6.0,
        tail_gap: 2.0,
    };

    /// Names and values, for records and digests; the version first.
    pub fn entries(&self) -> [(&'static str, f64); 18] {
        [
            ("version", f64::from(self.version)),
            ("freeze_share", self.freeze_share),
            ("ff_align", self.ff_align),
            ("ff_align_smooth", self.ff_align_smooth),
            ("ff_corr", self.ff_corr),
            ("dino_first", self.dino_first),
            ("first_jump", self.first_jump),
            ("ff_min4", self.ff_min4),
            ("scene", self.scene),
            ("histmax", self.histmax),
            ("luma_hf", self.luma_hf),
            ("still_zoom", self.still_zoom),
            ("overlay", self.overlay),
            ("lap_rel", self.lap_rel),
            ("block", self.block),
            ("order", self.order),
            ("ff_chroma", self.ff_chroma),
            ("tail_gap", self.tail_gap),
        ]
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::V1
    }
}
