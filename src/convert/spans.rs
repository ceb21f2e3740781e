//! A plan as the queue has it: its rows as spans, how large images are cut into blocks and packed ones into strips,
//! and what only the CPU makes.

use super::Options;
use super::packing::Cut;
use super::ranges::is_every_range_known_before;
use crate::backend::queue::{BLOCK_BYTES, WINDOW};
use crate::backend::{Span, Strips};
use crate::encode::Predictor;
use crate::normalize::{Rule, Scope};
use crate::plan::{Plan, Row, Scopes};

/// Most samples in a block of an image that is packed, or of a stream, unless a strip has more: packing takes
/// longer than all else, and all threads are to have a part in it.
pub(super) const PACKED_BLOCK: u64 = 1 << 20;

/// Most samples in a buffer.
pub(super) fn block(options: &Options, plan: &Plan) -> u64 {
    let most = options.block_samples.unwrap_or(u64::MAX);
    if options.is_streamed() {
        return most.min(PACKED_BLOCK);
    }
    if !options.encoding.is_packed() {
        return most.min(BLOCK_BYTES / 4);
    }
    let strips = plan.rows().iter().filter_map(|row| strips(options, row));
    let longest = strips.map(|strips| strips.samples).max().unwrap_or(1);
    most.min(PACKED_BLOCK).max(longest)
}

/// How images of a row are cut, in bytes.
pub(super) fn cut(options: &Options, row: &Row) -> Cut {
    let strip = strips(options, row).map_or(row.samples(), |strips| strips.samples);
    let width = usize::try_from(row.width).expect("a row that is packed fits memory");
    let tile = options.encoding.tile_of((row.width, row.height));
    let tile = tile.map(|size| size.map(usize::from));
    Cut { width, strip: 4 * strip, image: 4 * row.samples(), tile }
}

/// Bytes that packing takes each thread, or what comes too early for a stream: what it packs and has packed,
/// strips that wait for others, and the codec's tables.
pub(super) fn packing(options: &Options, plan: &Plan) -> u64 {
    if options.is_streamed() {
        // What waits for its turn, and what may be handed out behind that.
        return (WINDOW + 1) * 4 * PACKED_BLOCK;
    }
    if !options.encoding.is_packed() {
        return 0;
    }
    let block = block(options, plan);
    let of = |row: &Row| {
        let strip = strips(options, row).map_or(1, |strips| strips.samples);
        let strips = row.samples().min(block).div_ceil(strip);
        let size = (row.width, row.height);
        let waiting = if row.samples() > block { WINDOW } else { 0 };
        let packed = options.encoding.packed_bytes(size).saturating_mul(strips * (1 + waiting));
        // A strip that is to be whole, and one that is read again; a tile, predicted, packed to try, read, and
        // read as a stream, packed and not.
        let apart = 2 * 4 * strip + 6 * options.encoding.chunk_bytes(size);
        packed.saturating_add(apart).saturating_add(options.encoding.list_bytes(size))
    };
    let most = plan.rows().iter().map(of).max().unwrap_or(0);
    // What codecs make longer.
    most.saturating_add(most / 128).saturating_add(options.encoding.memory())
}

/// How images of a row are cut, where they are packed.
fn strips(options: &Options, row: &Row) -> Option<Strips> {
    let rows = options.encoding.packed_rows((row.width, row.height))?;
    let first_tells = options.encoding.predictor == Predictor::Auto;
    Some(Strips { samples: rows * row.width, first_tells })
}

/// The rows of a plan as the queue has them.
pub(super) fn spans(options: &Options, plan: &Plan) -> Vec<Span> {
    let scopes = Scopes::new(options.scope, plan.rows());
    let wide = |row: &Row| scopes.as_ref().is_some_and(|scopes| scopes.is_wide(row));
    let span = |row: &Row| Span {
        wide: row.dtype.is_wide() || wide(row),
        known: scopes.is_some() || is_every_range_known_before(options),
        strips: strips(options, row),
        ..span(row)
    };
    plan.rows().iter().map(span).collect()
}

/// A row as the queue has it, but for the others that it may share a range with.
pub(crate) fn span(row: &Row) -> Span {
    Span {
        dtype: row.dtype,
        samples: row.samples(),
        images: row.images,
        contiguous: row.contiguous(),
        wide: row.dtype.is_wide(),
        known: false,
        strips: None,
    }
}

/// Why only the CPU makes these images, if that is so: WGSL has no f64, and not every rule a kernel.
pub(super) fn cpu_only(rule: &Rule, span: &Span) -> Option<String> {
    if span.wide {
        return Some(format!("{} is computed in f64, which no GPU backend takes", span.dtype));
    }
    let asked =
        || rule.texts(Scope::Image).into_iter().map(|(option, text)| format!("--{option} {text}"));
    (!rule.is_linear(span.known))
        .then(|| format!("only the CPU does {}", asked().collect::<Vec<_>>().join(" ")))
}
