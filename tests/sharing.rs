//! How the queue shares work among devices of different speed, in made-up time: nobody waits long
//! for a slow device in the end, and a fast one gets what it can do.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use tensortiff::backend::Span;
use tensortiff::backend::queue::{Appetite, Lease, Member, Queue, Unit};
use tensortiff::normalize::Norm;
use tensortiff::{Dtype, Extent};

/// Samples a second that four cores make together, of f32 to files in memory.
const CORES: f64 = 1e9;
/// What a card's slot holds, and how many of them there are.
const SLOT: u64 = 16 << 20;
const SLOTS: usize = 3;
/// Seconds that a batch takes at least, however small.
const BATCH: f64 = 3e-4;

/// As the backends have them.
const CORE: Appetite =
    Appetite { samples: 65_536, least_samples: 1024, images: 4096, everything: true };
const CARD: Appetite =
    Appetite { samples: SLOT, least_samples: 256 << 10, images: 16_384, everything: false };

/// Work under way: when it ends, and who does it.
struct Busy<'q> {
    until: f64,
    card: bool,
    leases: Vec<Lease<'q>>,
}

fn samples(queue: &Queue, lease: &Lease<'_>) -> u64 {
    match lease.unit() {
        Unit::Images { span, images } => (images.end - images.start) * queue.spans()[*span].samples,
        Unit::Block { samples, .. } => samples.end - samples.start,
    }
}

fn end(lease: Lease<'_>) {
    match lease.unit() {
        Unit::Block { .. } => {
            let _ = lease.done_block(Extent::EMPTY);
        }
        Unit::Images { .. } => lease.done(),
    }
}

/// A batch as a reader takes it.
fn batch<'q>(queue: &'q Queue, member: &Member<'q>) -> Option<(Vec<Lease<'q>>, u64)> {
    let (first, mut more) = member.try_take(&CARD)?;
    let mut taken = samples(queue, &first);
    let mut leases = vec![first];
    while more.min(SLOT.saturating_sub(taken)) > 0 {
        let appetite = Appetite { samples: more.min(SLOT - taken), ..CARD };
        let Some(lease) = member.more(&appetite) else { break };
        let count = samples(queue, &lease);
        assert!(count <= appetite.samples, "{count} of at most {}", appetite.samples);
        taken += count;
        more -= count;
        leases.push(lease);
    }
    Some((leases, taken))
}

/// Seconds until four cores and a card of `speed` samples a second are done; without a card if 0.
fn time(spans: &[Span], block: u64, speed: f64) -> f64 {
    let queue = Queue::new(Norm::MinMax, spans.to_vec(), block, 6, |_| true);
    let member = queue.join(2);
    let mut busy: Vec<Busy<'_>> = Vec::new();
    let (mut now, mut card_free) = (0.0_f64, 0.0_f64);
    loop {
        // The card last: cores were there before it.
        while busy.iter().filter(|b| !b.card).count() < 4 {
            let Some(lease) = queue.try_take(&CORE) else { break };
            let until = now + samples(&queue, &lease) as f64 / (CORES / 4.0);
            busy.push(Busy { until, card: false, leases: vec![lease] });
        }
        while speed > 0.0 && busy.iter().filter(|b| b.card).count() < SLOTS {
            let Some((leases, taken)) = batch(&queue, &member) else { break };
            card_free = card_free.max(now) + BATCH + taken as f64 / speed;
            busy.push(Busy { until: card_free, card: true, leases });
        }
        let next = (0..busy.len()).min_by(|&a, &b| busy[a].until.total_cmp(&busy[b].until));
        let Some(next) = next else { break };
        let Busy { until, leases, .. } = busy.swap_remove(next);
        now = until;
        leases.into_iter().for_each(end);
    }
    assert!(queue.is_finished(), "work was left to nobody");
    now
}

fn span(samples: u64, images: u64) -> Span {
    Span {
        dtype: Dtype::F32,
        samples,
        images,
        contiguous: true,
        wide: false,
        known: false,
        strips: None,
    }
}

fn cases() -> Vec<(&'static str, Vec<Span>)> {
    vec![
        ("tiny", vec![span(28 * 28, 100_000)]),
        ("medium", vec![span(512 * 512, 1024)]),
        ("large", vec![span(4096 * 4096, 16)]),
        ("giant", vec![span(SLOT * 8 + 5, 2)]),
        ("many", (0..3000).map(|i| span(1000 + 37 * i, 3)).collect()),
    ]
}

#[test]
fn nobody_waits_for_a_slow_device() {
    for (name, spans) in cases() {
        let alone = time(&spans, SLOT, 0.0);
        for part in [4.0, 10.0, 30.0, 100.0] {
            let both = time(&spans, SLOT, CORES / part);
            println!("{name}, a card of 1/{part}: {both:.3} s, without it {alone:.3} s");
            // One batch or one large image shows how slow it is, and that time nobody gets back.
            let first = if name == "large" { SLOT } else { 256 << 10 };
            let probe = BATCH + first as f64 * part / CORES;
            assert!(both <= (1.04 * alone).max(1.01 * probe), "{name}, 1/{part}: {both} s");
        }
    }
}

#[test]
fn a_fast_device_gets_what_it_can_do() {
    for (name, spans) in cases() {
        let alone = time(&spans, SLOT, 0.0);
        for times in [0.5, 1.0, 4.0, 16.0] {
            let both = time(&spans, SLOT, CORES * times);
            let ideal = alone / (1.0 + times);
            println!("{name}, a card of {times}: {both:.3} s, at best {ideal:.3} s");
            assert!(both <= alone + 1e-9, "{name}, {times}: {both} s, without it {alone} s");
            // A core finishes the large image that it has begun; of a giant a block in each pass.
            let begun = match name {
                "large" => 1.0,
                "giant" => 2.0,
                _ => 0.0,
            };
            let single = begun * 4.0 * SLOT as f64 / CORES;
            let best = 1.1 * ideal + single;
            assert!(both <= best + 0.01, "{name}, {times}: {both} s, at best {ideal} s");
        }
    }
}

/// Two devices that both hold back leave nothing undone.
#[test]
fn members_among_themselves_do_everything() {
    for (name, spans) in cases() {
        let queue = Queue::new(Norm::MinMax, spans, SLOT, 4, |_| true);
        let members = [queue.join(2), queue.join(2)];
        let mut rounds = 0;
        while !queue.is_finished() {
            let batches: Vec<_> =
                members.iter().filter_map(|member| batch(&queue, member)).collect();
            assert!(!batches.is_empty(), "{name}: neither takes what is left");
            batches.into_iter().flat_map(|(leases, _)| leases).for_each(end);
            rounds += 1;
        }
        println!("{name}: {rounds} rounds");
        assert!(rounds < 200, "{name}: {rounds} rounds");
    }
}

/// A device that came first leaves the only image to those who come a little later; if nobody comes,
/// it does the image.
#[test]
fn the_only_large_image_is_not_taken_before_the_others_are_there() {
    let queue = Queue::new(Norm::MinMax, vec![span(SLOT, 1)], SLOT, 6, |_| true);
    let member = queue.join(2);
    assert!(member.try_take(&CARD).is_none());
    let (lease, _) = member.take(&CARD).unwrap();
    assert!(queue.try_take(&CORE).is_none());
    lease.done();
    assert!(queue.is_finished());
}

/// What one has under way it does not get again, and what comes back is done by the other.
#[test]
fn units_that_come_back_are_done_by_others() {
    let queue = Queue::new(Norm::MinMax, vec![span(784, 50_000)], SLOT, 6, |_| true);
    let [slow, other] = [queue.join(2), queue.join(2)];
    let (leases, _) = batch(&queue, &slow).unwrap();
    assert!(batch(&queue, &slow).is_none(), "more than a probe before anything is known");
    drop(leases);
    while let Some((leases, _)) = batch(&queue, &other) {
        leases.into_iter().for_each(end);
    }
    assert!(queue.is_finished());
}
