//! The ring of the GPU backend on software Vulkan: whole jobs through the queue, in every mixture,
//! with images that cannot be read, with a device that is lost, and with a queue that is stopped.
#![cfg(feature = "gpu")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

#[path = "support/software.rs"]
mod software;

use std::collections::HashMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use software::llvmpipe;
use tensortiff::backend::cpu::triples::mix;
use tensortiff::backend::gpu::hooks::Hooks;
use tensortiff::backend::gpu::kernels::Kernel;
use tensortiff::backend::gpu::{Gpu, adapters};
use tensortiff::backend::queue::{Appetite, Pass, Queue, Unit};
use tensortiff::backend::{Backend, Desk, DeviceIndex, Finding, ImageId, Job, Span};
use tensortiff::normalize::{Norm, oracle};
use tensortiff::{Dtype, Error, Extent};

/// What was handed over of one image.
#[derive(Debug, Default, Clone)]
struct Made {
    pixels: Vec<u8>,
    finding: Option<Finding>,
    times: u64,
    by: Vec<DeviceIndex>,
    failed: bool,
}

/// A job over random bytes, which remembers everything.
struct Random {
    norm: Norm,
    spans: Vec<Span>,
    unreadable: Vec<ImageId>,
    made: Mutex<HashMap<ImageId, Made>>,
    puts: AtomicU64,
    /// How long a read takes.
    slow: std::time::Duration,
    /// Whether two devices wait for each other with the first image of a narrow type that they read.
    meets: bool,
    there: Mutex<[bool; 2]>,
    came: Condvar,
    /// Called at every hand-over, with their number.
    at_put: Box<dyn Fn(u64) + Sync>,
}

impl Random {
    fn new(norm: Norm, spans: Vec<Span>) -> Random {
        Random {
            norm,
            spans,
            unreadable: Vec::new(),
            made: Mutex::default(),
            puts: AtomicU64::new(0),
            slow: std::time::Duration::ZERO,
            meets: false,
            there: Mutex::default(),
            came: Condvar::new(),
            at_put: Box::new(|_| ()),
        }
    }

    fn queue(&self, block: u64) -> Queue {
        self.shared_queue(block, 1)
    }

    /// A queue that so many share.
    fn shared_queue(&self, block: u64, pullers: usize) -> Queue {
        Queue::new(self.norm, self.spans.clone(), block, pullers, |span| !span.dtype.is_wide())
    }

    fn bytes_of(&self, image: ImageId) -> u64 {
        let span = self.spans[image.span];
        span.samples * span.dtype.size() as u64
    }

    fn byte(image: ImageId, at: u64) -> u8 {
        (mix(((image.span as u64) << 48 | image.index << 28) + at / 8) >> (8 * (at % 8))) as u8
    }

    fn raw(&self, image: ImageId) -> Vec<u8> {
        (0..self.bytes_of(image)).map(|at| Random::byte(image, at)).collect()
    }

    fn with(&self, image: ImageId, add: impl FnOnce(&mut Made)) {
        (self.at_put)(self.puts.fetch_add(1, Ordering::Relaxed));
        add(self.made.lock().unwrap().entry(image).or_default());
    }

    /// Waits until the other of two devices comes here.
    fn meet(&self, by: DeviceIndex) {
        let mut there = self.there.lock().unwrap();
        there[by] = true;
        self.came.notify_all();
        let long = std::time::Duration::from_secs(10);
        let met = self.came.wait_timeout_while(there, long, |there| !there[1 - by]).unwrap();
        assert!(!met.1.timed_out(), "device {by} is alone");
    }

    /// Every image of a narrow type was made once, as the oracle has it, or failed once.
    fn check(&self) {
        let made = self.made.lock().unwrap();
        let mut count = 0;
        for (span, shape) in self.spans.iter().enumerate() {
            for index in 0..shape.images {
                let image = ImageId { span, index };
                let got = made.get(&image).unwrap_or_else(|| panic!("{image:?} was not made"));
                count += 1;
                assert_eq!(got.times, 1, "{image:?} of {shape:?}");
                let unreadable = self.unreadable.contains(&image);
                assert_eq!(got.failed, unreadable, "{image:?} of {shape:?}");
                if !unreadable {
                    self.compare(image, got);
                }
            }
        }
        assert_eq!(made.len(), count);
    }

    fn compare(&self, image: ImageId, got: &Made) {
        let shape = self.spans[image.span];
        let (extent, want) = oracle::normalize(self.norm, shape.dtype, &self.raw(image));
        assert_eq!(
            got.finding,
            Some(Finding::of(&self.norm.into(), extent, false)),
            "{image:?} of {shape:?}"
        );
        assert_eq!(got.pixels.len(), 4 * want.len(), "{image:?} of {shape:?}");
        for (i, (got, want)) in got.pixels.chunks_exact(4).zip(&want).enumerate() {
            let got = u32::from_le_bytes(got.try_into().unwrap());
            assert_eq!(got, want.to_bits(), "pixel {i} of {image:?} of {shape:?}");
        }
    }
}

impl Job for Random {
    fn desk(&self, by: DeviceIndex) -> Box<dyn Desk + '_> {
        Box::new(RandomDesk { job: self, by })
    }
}

struct RandomDesk<'a> {
    job: &'a Random,
    by: DeviceIndex,
}

impl Desk for RandomDesk<'_> {
    fn read(&mut self, image: ImageId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let each = self.job.bytes_of(image);
        std::thread::sleep(self.job.slow);
        if self.job.meets && !self.job.spans[image.span].dtype.is_wide() {
            self.job.meet(self.by);
        }
        for (k, byte) in (0..).zip(buf.iter_mut()) {
            let at = offset + k;
            let image = ImageId { index: image.index + at / each, ..image };
            assert!(self.job.spans[image.span].contiguous || at < each, "read past {image:?}");
            if self.job.unreadable.contains(&image) {
                let source = io::Error::other("planted");
                return Err(Error::Read { dump: "d".into(), tensor: "t".into(), source });
            }
            *byte = Random::byte(image, at % each);
        }
        Ok(())
    }

    fn put(&mut self, image: ImageId, finding: &Finding, pixels: &[u8]) {
        let by = self.by;
        self.job.with(image, |made| {
            made.pixels = pixels.to_vec();
            made.finding = Some(*finding);
            made.times += 1;
            made.by.push(by);
        });
    }

    fn put_block(&mut self, image: ImageId, first: u64, pixels: &[u8]) {
        let by = self.by;
        let all = 4 * self.job.spans[image.span].samples as usize;
        self.job.with(image, |made| {
            made.pixels.resize(all, 0xEE);
            made.pixels[4 * first as usize..][..pixels.len()].copy_from_slice(pixels);
            made.by.push(by);
        });
    }

    fn finish_blocks(&mut self, image: ImageId, finding: &Finding) {
        self.job.with(image, |made| {
            made.finding = Some(*finding);
            made.times += 1;
        });
    }

    fn fail(&mut self, image: ImageId, _: Error) {
        self.job.with(image, |made| {
            made.times += 1;
            made.failed = true;
        });
    }
}

/// A backend of a few lines, over the oracle.
struct Plain;

impl Backend for Plain {
    fn name(&self) -> &str {
        "plain"
    }

    fn takes(&self, _: &Span, _: &tensortiff::Rule) -> bool {
        true
    }

    fn pullers(&self) -> usize {
        1
    }

    fn drain(&self, queue: &Queue, job: &dyn Job, by: DeviceIndex) -> Result<(), Error> {
        let appetite = Appetite { samples: 1000, least_samples: 1, images: 3, everything: true };
        let mut desk = job.desk(by);
        let read = |desk: &mut dyn Desk, image: ImageId, samples: std::ops::Range<u64>| {
            let size = queue.spans()[image.span].dtype.size();
            let mut raw = vec![0; (samples.end - samples.start) as usize * size];
            desk.read(image, samples.start * size as u64, &mut raw).map(|()| raw)
        };
        while let Some(lease) = queue.take(&appetite) {
            match lease.unit().clone() {
                Unit::Images { span, images } => {
                    let shape = queue.spans()[span];
                    for index in images {
                        let image = ImageId { span, index };
                        match read(&mut *desk, image, 0..shape.samples) {
                            Err(error) => desk.fail(image, error),
                            Ok(raw) => {
                                let (extent, pixels) =
                                    oracle::normalize(*queue.rule(), shape.dtype, &raw);
                                let finding = Finding::of(queue.rule(), extent, false);
                                desk.put(image, &finding, bytemuck::cast_slice(&pixels));
                            }
                        }
                    }
                    lease.done();
                }
                Unit::Block { image, pass, samples } => {
                    let shape = queue.spans()[image.span];
                    let raw = match read(&mut *desk, image, samples.clone()) {
                        Ok(raw) => raw,
                        Err(error) => {
                            if lease.fail_giant() {
                                desk.fail(image, error);
                            }
                            continue;
                        }
                    };
                    let mut widened = vec![0.0; (samples.end - samples.start) as usize];
                    tensortiff::tensor::decode::to_f32(shape.dtype, &raw, &mut widened);
                    let extent = widened.iter().map(|&x| Extent::of(x.into()));
                    let extent = extent.fold(Extent::EMPTY, Extent::merge);
                    if let Pass::Normalize(finding) = pass
                        && let tensortiff::Range::Linear { lo, hi, .. } = finding.range
                    {
                        tensortiff::backend::cpu::normalize::normalize_f32(
                            lo as f32,
                            hi as f32,
                            &finding.extent,
                            &mut widened,
                        );
                    }
                    if pass != Pass::Extent {
                        desk.put_block(image, samples.start, bytemuck::cast_slice(&widened));
                    }
                    if let Some(finding) = lease.done_block(extent) {
                        desk.finish_blocks(image, &finding);
                    }
                }
            }
        }
        Ok(())
    }
}

fn span(dtype: Dtype, samples: u64, images: u64, contiguous: bool) -> Span {
    Span { dtype, samples, images, contiguous, wide: dtype.is_wide(), known: false, strips: None }
}

/// Every narrow type, small, middling and giant images, contiguous and not, one sample to many.
fn mixture() -> Vec<Span> {
    let narrow = Dtype::ALL.into_iter().filter(|dtype| !dtype.is_wide());
    let mut spans: Vec<Span> = narrow
        .flat_map(|dtype| {
            [
                span(dtype, 1, 3, true),
                span(dtype, 785, 20, true),
                span(dtype, 4097, 3, false),
                span(dtype, 50_001, 1, true),
            ]
        })
        .collect();
    spans.extend((0..40).map(|i| span(Dtype::Bf16, 100 + i, 1, true)));
    spans
}

#[test]
fn every_mixture_is_made_once_and_as_the_oracle_has_it() {
    let gpu = Gpu::open(&llvmpipe(), 3).unwrap();
    for (norm, block) in [(Norm::MinMax, 20_000), (Norm::None, 20_000), (Norm::MinMax, 1 << 20)] {
        let job = Random::new(norm, mixture());
        let queue = job.queue(block);
        gpu.drain(&queue, &job, 0).unwrap();
        assert!(queue.is_finished());
        job.check();
        println!("{:?}", gpu.stats());
    }
}

/// Slots stay for the next job, whose samples may be wider: they held 4 Mi samples of one byte.
#[test]
fn slots_of_narrow_samples_are_not_overfilled_with_wide_ones() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    for (dtype, samples, images) in [(Dtype::U8, 4 << 20, 1), (Dtype::F32, 30_000, 100)] {
        let job = Random::new(Norm::MinMax, vec![span(dtype, samples, images, true)]);
        gpu.drain(&job.queue(u64::MAX), &job, 0).unwrap();
        job.check();
    }
}

#[test]
fn two_submissions_are_under_way_before_the_first_wait() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    let mut job = Random::new(Norm::MinMax, vec![span(Dtype::U8, 1 << 20, 8, true)]);
    // A reader that is slower than the device, for whose second batch it is worth waiting.
    job.slow = std::time::Duration::from_millis(40);
    gpu.drain(&job.queue(1 << 20), &job, 0).unwrap();
    job.check();
    let stats = gpu.stats();
    assert!(stats.batches >= 3, "{stats:?}");
    assert!(stats.submissions_before_first_wait >= 2, "{stats:?}");
    assert_eq!(stats.submissions, stats.batches);
    assert!(stats.bytes_up >= 8 << 20 && stats.bytes_down >= 32 << 20, "{stats:?}");
    assert!(stats.dispatches >= 3 * stats.batches, "{stats:?}");
}

#[test]
fn tiny_images_of_many_tensors_share_batches() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    let spans: Vec<Span> = (0..300).map(|i| span(Dtype::F16, 20 + i, 1 + i % 4, true)).collect();
    let job = Random::new(Norm::MinMax, spans);
    gpu.drain(&job.queue(1 << 20), &job, 0).unwrap();
    job.check();
    assert!(gpu.stats().batches <= 4, "{:?}", gpu.stats());
}

#[test]
fn later_drains_may_need_more_or_less_than_earlier_ones() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    for (dtype, samples) in
        [(Dtype::U8, 10), (Dtype::F32, 300_000), (Dtype::U8, 900_000), (Dtype::F16, 99)]
    {
        let job = Random::new(Norm::MinMax, vec![span(dtype, samples, 4, true)]);
        gpu.drain(&job.queue(1 << 20), &job, 0).unwrap();
        job.check();
    }
}

#[test]
fn images_that_cannot_be_read_fail_and_take_no_other_along() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    let mut job = Random::new(Norm::MinMax, mixture());
    let at = |span, index| ImageId { span, index };
    // In a run, alone, the whole of a span, and a giant.
    job.unreadable = vec![at(1, 0), at(1, 7), at(1, 19), at(2, 1), at(3, 0), at(5, 4), at(6, 2)];
    job.unreadable.extend((0..3).map(|index| at(8, index)));
    let queue = job.queue(20_000);
    gpu.drain(&queue, &job, 0).unwrap();
    assert!(queue.is_finished());
    job.check();
    let mut nothing = Random::new(Norm::MinMax, vec![span(Dtype::F32, 10, 4, true)]);
    nothing.unreadable = (0..4).map(|index| at(0, index)).collect();
    gpu.drain(&nothing.queue(1 << 20), &nothing, 0).unwrap();
    nothing.check();
}

#[test]
fn a_lost_device_gives_its_images_back_and_says_so() {
    for submissions in [0, 1, 2, 3, 5] {
        let hooks = Hooks { submissions, ..Hooks::NONE };
        let gpu = Gpu::open_with(&llvmpipe(), 2, &hooks).unwrap();
        let spans = vec![
            span(Dtype::F32, 10_007, 100, true),
            span(Dtype::U8, 70_000, 8, false),
            span(Dtype::F16, 300, 500, true),
        ];
        let mut job = Random::new(Norm::MinMax, spans);
        // They fail once, also in batches that are lost.
        let at = |span, index| ImageId { span, index };
        job.unreadable = vec![at(0, 0), at(0, 2), at(0, 50), at(1, 3), at(2, 0), at(2, 499)];
        let queue = job.queue(30_000);
        let error = gpu.drain(&queue, &job, 7).unwrap_err();
        assert!(
            matches!(&error, Error::Gpu { device, .. } if device.contains("llvmpipe")),
            "{error}"
        );
        assert!(!queue.is_finished(), "lost after {submissions} and still finished");
        // It does not come back to life.
        assert!(matches!(gpu.drain(&queue, &job, 7), Err(Error::Gpu { .. })));
        drop(gpu);
        Plain.drain(&queue, &job, 8).unwrap();
        assert!(queue.is_finished());
        job.check();
        println!("{submissions}: {error}");
    }
}

/// Only in images of sizes that its proof does not have: the batch is not handed over, not even the
/// images before it.
#[test]
fn a_device_that_leaves_samples_out_gives_its_images_back_and_says_so() {
    fn fewer(text: &str, end: &str, samples: u32) -> Option<String> {
        assert!(text.contains(end));
        Some(text.replace(end, &format!("{end} - select(0u, 1u, image.samples == {samples}u)")))
    }
    const SMALL: &str = "min(image.samples, SMALL)";
    const TILE: &str = "min(image.samples, tile.first_sample + TILE)";
    type Rewrite = fn(Kernel, &str) -> Option<String>;
    let cases: [(&str, u64, Rewrite); 3] = [
        ("784 of an image's 785", 1 << 20, |kernel, text| match kernel {
            Kernel::Fused => fewer(text, SMALL, 785),
            _ => None,
        }),
        ("of an image's 50001", 1 << 20, |kernel, text| match kernel {
            Kernel::Extent => fewer(text, TILE, 50_001),
            _ => None,
        }),
        ("of an image's 20000", 20_000, |kernel, text| match kernel {
            Kernel::Extent => fewer(text, TILE, 20_000),
            _ => None,
        }),
    ];
    for (what, block, rewrite) in cases {
        let gpu = Gpu::open_with(&llvmpipe(), 2, &Hooks { rewrite, ..Hooks::NONE }).unwrap();
        let job = Random::new(Norm::MinMax, mixture());
        let queue = job.queue(block);
        let error = gpu.drain(&queue, &job, 0).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(gpu.drain(&queue, &job, 0).is_err(), "and is used again");
        assert!(!queue.is_finished());
        Plain.drain(&queue, &job, 1).unwrap();
        job.check();
    }
}

#[test]
fn a_unit_of_a_type_that_no_gpu_takes_is_an_error_and_goes_back() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    let spans = vec![span(Dtype::F64, 100, 3, true), span(Dtype::U8, 100, 3, true)];
    let job = Random::new(Norm::MinMax, spans.clone());
    // Whoever made this queue did not ask the backend what it takes.
    let queue = Queue::new(Norm::MinMax, spans, 1000, 1, |_| true);
    let error = gpu.drain(&queue, &job, 0).unwrap_err();
    assert!(error.to_string().contains("F64"), "{error}");
    assert!(!queue.is_finished());
    Plain.drain(&queue, &job, 1).unwrap();
    job.check();
}

#[test]
fn a_hand_over_that_panics_ends_the_drain_and_gives_its_units_back() {
    for threads in [1, 3] {
        let gpu = Gpu::open(&llvmpipe(), threads).unwrap();
        let mut job = Random::new(Norm::MinMax, vec![span(Dtype::U8, 5_000, 400, true)]);
        job.at_put = Box::new(|n| assert_ne!(n, 30, "planted"));
        let queue = job.queue(1 << 20);
        let drained = std::panic::catch_unwind(AssertUnwindSafe(|| gpu.drain(&queue, &job, 0)));
        assert!(drained.is_err());
        assert!(!queue.is_finished());
        Plain.drain(&queue, &job, 1).unwrap();
        assert!(queue.is_finished());
        let made = job.made.lock().unwrap();
        assert_eq!(made.len(), 400);
        made.iter().for_each(|(image, made)| job.compare(*image, made));
    }
}

#[test]
#[ignore = "run by a_machine_without_a_driver_has_no_adapters, in an environment of its own"]
fn there_are_no_adapters() {
    assert_eq!(adapters().len(), 0);
}

#[test]
fn a_machine_without_a_driver_has_no_adapters() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["there_are_no_adapters", "--exact", "--ignored"])
        .env("VK_DRIVER_FILES", "/nonexistent.json")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_stopped_queue_ends_the_drain_with_whole_images() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    let mut job = Random::new(Norm::MinMax, vec![span(Dtype::U8, 1 << 16, 64, true)]);
    let queue = std::sync::Arc::new(job.queue(1 << 20));
    let to_stop = std::sync::Arc::clone(&queue);
    job.at_put = Box::new(move |n| {
        if n == 2 {
            to_stop.stop();
        }
    });
    gpu.drain(&queue, &job, 0).unwrap();
    let made = job.made.lock().unwrap();
    assert!(made.len() >= 3 && made.len() < 64, "{} images", made.len());
    for (image, made) in made.iter() {
        assert_eq!(made.times, 1);
        job.compare(*image, made);
    }
}

#[test]
fn two_backends_share_a_queue() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    let mut spans = mixture();
    let wide = spans.len();
    spans.push(span(Dtype::F64, 200, 30, true));
    let mut job = Random::new(Norm::MinMax, spans);
    job.meets = true;
    let queue = job.shared_queue(20_000, 3);
    std::thread::scope(|scope| {
        let plain = scope.spawn(|| Plain.drain(&queue, &job, 1));
        gpu.drain(&queue, &job, 0).unwrap();
        plain.join().unwrap().unwrap();
    });
    job.check();
    let made = job.made.lock().unwrap();
    let mut narrow = [0, 0];
    for (image, made) in made.iter() {
        assert!(!made.by.is_empty(), "{image:?}");
        if image.span == wide {
            assert_eq!(made.by, [1], "{image:?}");
        } else {
            made.by.iter().for_each(|by| narrow[*by] += 1);
        }
    }
    assert!(narrow[0] > 0 && narrow[1] > 0, "{narrow:?} images and blocks of narrow types");
}

#[test]
fn a_driver_that_computes_wrongly_is_not_opened() {
    use Kernel::{Extent, Fused, Normalize};
    type Rewrite = fn(Kernel, &str) -> Option<String>;
    let wrong: [(&str, i32, Rewrite); 28] = [
        ("estimates are far off", 5000, |_, _| None),
        ("loops lose iterations", 0, |_, text| {
            Some(text.replace("i += WORKGROUP", "i += 2u * WORKGROUP"))
        }),
        ("subnormal differences are flushed", 0, |_, text| {
            let line = "    let mantissa = sum >> 3u;";
            Some(text.replace(line, &format!("    if sum < 0x4000000u {{ return 0u; }}\n{line}")))
        }),
        ("subnormal quotients are flushed", 0, |_, text| {
            let line = "    let mantissa = quotient >> drop;";
            Some(text.replace(line, &format!("    if drop > 1u {{ return 0u; }}\n{line}")))
        }),
        ("subnormal samples are flushed", 0, |_, text| {
            Some(text.replace("return scaled(sign, magnitude, 24u);", "return sign;"))
        }),
        ("quotients are not rounded", 0, |_, text| {
            Some(text.replace("+ mantissa + up;", "+ mantissa;"))
        }),
        ("bytes of a word are swapped", 0, |_, text| {
            Some(text.replace("(8u * (byte & 3u))", "(24u - 8u * (byte & 3u))"))
        }),
        ("minima are not merged", 0, |_, text| {
            Some(text.replace("atomicMax(&extents[at], word);", "atomicAdd(&extents[at], word);"))
        }),
        ("nothing is computed", 0, |_, text| {
            Some(text.replace("pixels[image.first_pixel + i] =", "let unused ="))
        }),
        // From here on every pixel is right, or everything but what is done in blocks.
        ("NaN count twice", 0, |_, text| {
            Some(text.replace("extent.nan += 1u", "extent.nan += 2u"))
        }),
        ("infinities count as NaN", 0, |_, text| {
            Some(text.replace("extent.pos_inf += 1u", "extent.nan += 1u"))
        }),
        ("tiles are not asked for -inf", 0, |kernel, text| {
            (kernel == Extent).then(|| text.replace("extent.neg_inf)", "0u)"))
        }),
        ("small images are not asked for -inf", 0, |kernel, text| {
            (kernel == Fused).then(|| text.replace("part.neg_inf)", "0u)"))
        }),
        ("blocks are not asked for NaN", 0, |kernel, text| {
            (kernel == Extent).then(|| text.replace("extent.nan)", "extent.nan * image.ranged)"))
        }),
        ("extremes of blocks are lost", 0, |kernel, text| {
            let lost = "atomicMax(&found[0], extent.max_key * image.ranged)";
            (kernel == Extent).then(|| text.replace("atomicMax(&found[0], extent.max_key)", lost))
        }),
        ("pixels of blocks are off", 0, |kernel, text| {
            let off = "image.first_byte, i)) ^ (1u - image.ranged);";
            (kernel == Normalize).then(|| text.replace("image.first_byte, i));", off))
        }),
        // Ranges that the host gives, and those that are mirrored.
        ("small images are not given their range", 0, |kernel, text| {
            (kernel == Fused).then(|| text.replace("image.ranged == GIVEN", "false"))
        }),
        ("samples below are not clamped", 0, |_, text| {
            Some(text.replace("if key_of(x) <= key_of(range.lo)", "if false"))
        }),
        ("samples above are not clamped", 0, |_, text| {
            Some(text.replace("if key_of(x) >= key_of(range.hi)", "if false"))
        }),
        ("symmetric ranges are not mirrored", 0, |_, text| {
            Some(text.replace("if norm == 2u", "if false"))
        }),
        // Types whose codes only they decode so.
        ("the least F8_E8M0 is zero", 0, |_, text| {
            Some(text.replace("select(code << 23u, 0x400000u, code == 0u)", "(code << 23u)"))
        }),
        ("the greatest F8_E8M0 is infinite", 0, |_, text| {
            Some(text.replace("if code == 0xFFu", "if false"))
        }),
        ("FNUZ have a negative zero", 0, |_, text| {
            Some(text.replace("NAN, code == 0x80u)", "NAN, false)"))
        }),
        ("F8_E4M3FNUZ is F8_E4M3's", 0, |_, text| {
            Some(text.replace("decode_fnuz(code, 3u, 8u)", "decode_fnuz(code, 3u, 7u)"))
        }),
        ("F8_E5M2FNUZ is F8_E5M2's", 0, |_, text| {
            Some(text.replace("decode_fnuz(code, 2u, 16u)", "decode_fnuz(code, 2u, 15u)"))
        }),
        ("F6_E2M3 is F6_E3M2", 0, |_, text| {
            Some(text.replace("decode_small(code, 5u, 3u, 1u)", "decode_small(code, 5u, 2u, 3u)"))
        }),
        ("F6_E3M2 is F6_E2M3", 0, |_, text| {
            Some(text.replace("decode_small(code, 5u, 2u, 3u)", "decode_small(code, 5u, 3u, 1u)"))
        }),
        ("of F4 the other half is looked at", 0, |_, text| {
            Some(text.replace("decode_small(code, 3u, 1u, 1u)", "decode_small(code, 7u, 1u, 1u)"))
        }),
    ];
    for (name, spoil, rewrite) in wrong {
        let hooks = Hooks { spoil, rewrite, ..Hooks::NONE };
        let opened = Gpu::open_with(&llvmpipe(), 2, &hooks);
        let error = opened.err().unwrap_or_else(|| panic!("{name}, and the proof saw nothing"));
        assert!(error.to_string().contains("failed its proof"), "{name}: {error}");
        println!("{name}: {error}");
    }
    // What the arithmetic is made to tolerate, it does.
    for spoil in [48, -48, 100, -100] {
        Gpu::open_with(&llvmpipe(), 2, &Hooks { spoil, ..Hooks::NONE }).unwrap();
    }
}

#[test]
fn a_kernel_that_does_not_compile_is_an_error_and_no_panic() {
    let hooks = Hooks { rewrite: |_, _| Some("fn main( {".to_owned()), ..Hooks::NONE };
    let error = Gpu::open_with(&llvmpipe(), 2, &hooks).unwrap_err();
    assert!(error.to_string().contains("compiling"), "{error}");
}

#[test]
fn the_proof_is_quick_and_measures_the_readback() {
    let gpu = Gpu::open(&llvmpipe(), 2).unwrap();
    let proof = gpu.proof();
    println!("{proof}");
    assert!(proof.images > 600 && proof.samples > 200_000, "{proof:?}");
    assert!(proof.readback_gb_s > 0.1, "{proof:?}");
    // Tens of milliseconds, unless others have the processor.
    assert!(proof.took < std::time::Duration::from_secs(3), "{proof:?}");
}
