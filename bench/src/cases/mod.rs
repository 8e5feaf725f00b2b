//! The cases.

pub(crate) mod dit_block;
pub(crate) mod offload;
pub(crate) mod pipeline;
pub(crate) mod text_block;
pub(crate) mod vae_decode;
mod weights;

use crate::case::Planned;
use crate::cli::{CaseArg, RunArgs};

/// Every speed measurement that was asked for, in the order of the report.
pub(crate) fn list(args: &RunArgs) -> Vec<Planned> {
    let size = args.size;
    let cases = [
        (CaseArg::Pipeline, pipeline::list(size)),
        (CaseArg::DitBlock, dit_block::list(size)),
        (CaseArg::VaeDecode, vae_decode::list(size)),
        (CaseArg::TextBlock, text_block::list(size)),
    ];
    cases
        .into_iter()
        .filter(|(case, _)| args.wants(*case))
        .flat_map(|(_, planned)| planned)
        .filter(|planned| args.selects(&planned.name))
        .collect()
}
