//! Part 8: the memory plan against the card's allocator, and the plans for small cards against their size.

use anyhow::Result;
use candle_core::{DType, Tensor};
use leoma_models::Precision;
use leoma_models::wan::pipeline::{Offload, Unobserved, WanPipeline};
use leoma_models::wan::plan::{Memory, MemoryPlan, ModelSizes, PlanRequest, WORKSPACE};

use super::clip::{Clip, checkpoint, clips, params};
use super::parts::Session;
use super::result::{Row, Verdict};

/// How far the plan may be from what was allocated.
const SHARE: f64 = 0.05;

/// What stays in memory, which of the clips, and the memory of the card that the mode is for.
const RUNS: [(&str, usize, Offload, Option<u64>); 4] = [
    ("all resident", 1, Offload::None, None),
    ("one expert at a time", 0, Offload::Experts, None),
    ("blocks", 1, Offload::Blocks, Some(16)),
    ("blocks", 0, Offload::Blocks, Some(24)),
];

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    for (mode, clip, offload, card_gib) in RUNS {
        let Some(&clip) = clips(session).get(clip) else {
            continue;
        };
        let name = format!("{}, {mode}", clip.0);
        if session.late(&name)? {
            return Ok(());
        }
        if let Err(error) = one(session, clip, offload, card_gib, &name) {
            session.push(Row::new(name, Verdict::Fail, format!("{error:#}")))?;
        }
    }
    Ok(())
}

fn one(
    session: &mut Session<'_>,
    clip: Clip,
    offload: Offload,
    card_gib: Option<u64>,
    name: &str,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let checkpoint = checkpoint(session, clip.1, folder.path())?;
    let mut params = params(clip, checkpoint.boundary_ratio());
    // Both experts must come up once, so that a mode that keeps too much is seen.
    params.num_inference_steps = 2;
    let sizes = ModelSizes::of(&checkpoint);
    let end = session.end();
    let late = move || std::time::Instant::now() >= end;
    let place = &session.place;
    place.reset_peak()?;
    let (plan, finite) = place.run(|| -> Result<(MemoryPlan, bool)> {
        let mut pipeline = WanPipeline::new(checkpoint, Precision::Bf16, place.device(), offload)?;
        let request = PlanRequest::new(&params, false);
        let plan = MemoryPlan::new(&sizes, request, pipeline.plan_options());
        let mut finite = true;
        pipeline.generate(
            &params,
            None,
            &mut Unobserved,
            &late,
            &mut |part: Tensor| {
                let sum = part.abs()?.sum_all()?.to_dtype(DType::F32)?;
                finite &= sum.to_scalar::<f32>()?.is_finite();
                Ok(())
            },
        )?;
        Ok((plan, finite))
    })?;
    session.push(Row::check(
        format!("{name}: clip"),
        finite,
        "no NaN and no infinity",
    ))?;
    let Some(peak) = session.place.peak()? else {
        let why = "there is no card's allocator to hold the plan against";
        return session.push(Row::new(format!("{name}: plan"), Verdict::Skipped, why));
    };
    // The libraries' own memory does not come from the pool.
    let planned = plan.peak(Memory::Device).saturating_sub(WORKSPACE);
    let off = (planned as f64 - peak as f64) / peak as f64;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let detail = format!(
        "planned {:.2} GiB, allocated {:.2} GiB: {:+.1} %, limit {:.0} %",
        gib(planned),
        gib(peak),
        off * 100.0,
        SHARE * 100.0
    );
    session.push(
        Row::check(format!("{name}: plan"), off.abs() <= SHARE, detail)
            .value("planned_bytes", planned as f64)
            .value("allocated_bytes", peak as f64),
    )?;
    if let Some(card) = card_gib.filter(|_| !session.small()) {
        let held = peak + WORKSPACE;
        let detail = format!(
            "{:.2} GiB with the libraries' own, of {card} GiB",
            gib(held)
        );
        session.push(Row::check(
            format!("{name}: fits"),
            held <= card << 30,
            detail,
        ))?;
    }
    Ok(())
}
