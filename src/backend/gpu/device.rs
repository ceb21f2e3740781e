//! An open device, and everything that can go wrong with one, as errors: wgpu's own answer to an
//! error that nobody handles is a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::adapters::Adapter;
use super::hooks::Hooks;
use crate::error::Error;

/// The first thing that went wrong, once something did. After that the device is not called any
/// more: a submission would be dropped in silence, and wgpu 30 frees the memory of a lost device
/// in its next poll, mapped or not.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    is_there: AtomicBool,
    what: Mutex<String>,
}

impl Trouble {
    pub(super) fn report(&self, problem: String) {
        let mut what = self.what.lock().unwrap_or_else(PoisonError::into_inner);
        if what.is_empty() {
            *what = problem;
        }
        self.is_there.store(true, Ordering::Release);
    }

    fn look(&self) -> Option<String> {
        if !self.is_there.load(Ordering::Acquire) {
            return None;
        }
        Some(self.what.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) inner: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) trouble: Arc<Trouble>,
    /// After which a device that does not finish its work counts as lost.
    pub(super) patience: Duration,
}

impl Device {
    pub(super) fn open(adapter: &Adapter, hooks: &Hooks) -> Result<Device, Error> {
        let clock =
            wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
        let wanted = if hooks.timed { clock } else { wgpu::Features::empty() };
        let name = adapter.info.name.clone();
        let request = adapter.inner.request_device(&wgpu::DeviceDescriptor {
            label: Some("tensortiff"),
            // The floor that WebGPU promises everywhere, so that every card does the same.
            required_limits: wgpu::Limits::default(),
            required_features: adapter.inner.features() & wanted,
            ..Default::default()
        });
        let (inner, queue) = pollster::block_on(request).map_err(|error| Error::Gpu {
            device: name.clone(),
            problem: format!("cannot be opened: {}", one_line(&error.to_string())),
        })?;
        let trouble = Arc::new(Trouble::default());
        let of_errors = Arc::clone(&trouble);
        inner.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            of_errors.report(one_line(&error.to_string()));
        }));
        let of_loss = Arc::clone(&trouble);
        inner.set_device_lost_callback(move |reason, message| {
            of_loss.report(format!("device lost ({reason:?}) {}", one_line(&message)));
        });
        Ok(Device { name, inner, queue, trouble, patience: hooks.patience })
    }

    /// The error that says what happened here.
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Gpu { device: self.name.clone(), problem: problem.into() }
    }

    /// Whether the device is well, as far as it is known.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.trouble.look().map_or(Ok(()), |problem| Err(self.error(problem)))
    }

    /// Makes things on the device; whatever fails meanwhile is the answer's error.
    pub(super) fn guarded<T>(
        &self,
        what: &str,
        make: impl FnOnce(&wgpu::Device) -> T,
    ) -> Result<T, Error> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        self.check()?;
        let [outer, middle, inner] =
            [OutOfMemory, Internal, Validation].map(|filter| self.inner.push_error_scope(filter));
        let made = make(&self.inner);
        let mut problem = None;
        // The last one pushed is the first one popped.
        for scope in [inner, middle, outer] {
            problem = pollster::block_on(scope.pop()).or(problem);
        }
        match problem {
            Some(error) => Err(self.error(format!("{what}: {}", one_line(&error.to_string())))),
            None => self.check().map(|()| made),
        }
    }

    /// Runs callbacks that are due. With a submission, waits until it is done or the time is over.
    pub(super) fn poll(
        &self,
        wait: Option<(wgpu::SubmissionIndex, Duration)>,
    ) -> Result<(), Error> {
        self.check()?;
        let poll_type = match wait {
            Some((index, timeout)) => {
                wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(timeout) }
            }
            None => wgpu::PollType::Poll,
        };
        // A card that is really lost makes `poll` itself panic in wgpu 30 (handle_error_fatal).
        // Its state is not looked at again after that.
        let polled = catch_unwind(AssertUnwindSafe(|| self.inner.poll(poll_type)));
        match polled {
            Ok(Ok(_) | Err(wgpu::PollError::Timeout)) => {}
            Ok(Err(error)) => self.trouble.report(one_line(&error.to_string())),
            Err(_) => self.trouble.report("device lost while it was waited for".to_owned()),
        }
        self.check()
    }

    /// Maps a readback buffer and waits for it: not for use beside a drain.
    pub(super) fn mapped(
        &self,
        buffer: &wgpu::Buffer,
        len: u64,
    ) -> Result<wgpu::BufferView, Error> {
        let done = Arc::new(AtomicBool::new(false));
        let (of_map, trouble) = (Arc::clone(&done), Arc::clone(&self.trouble));
        buffer.map_async(wgpu::MapMode::Read, 0..len, move |mapped| {
            if mapped.is_err() {
                trouble.report("a buffer could not be mapped".to_owned());
            }
            of_map.store(true, Ordering::Release);
        });
        let start = Instant::now();
        while !done.load(Ordering::Acquire) {
            self.poll(None)?;
            if start.elapsed() > self.patience {
                return Err(self.error("a buffer was not mapped in time"));
            }
            std::thread::yield_now();
        }
        self.check()?;
        let view = buffer.slice(0..len).get_mapped_range();
        view.map_err(|error| self.error(one_line(&error.to_string())))
    }
}

/// wgpu's messages have several lines; an error of ours has one.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What no device makes: no buffer may be mapped for reading and bound as storage. For tests.
pub(super) fn invalid_buffer(device: &wgpu::Device) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("invalid"),
        size: 16,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::adapters;

    fn llvmpipe() -> Device {
        let all = adapters();
        let found = all.iter().find(|adapter| adapter.info.matches_name("llvmpipe"));
        let found = found.expect("software Vulkan (mesa-vulkan-drivers) is installed");
        Device::open(found, &Hooks::NONE).unwrap()
    }

    #[test]
    fn an_error_that_nobody_awaits_is_trouble_and_no_panic() {
        let device = llvmpipe();
        device.check().unwrap();
        drop(invalid_buffer(&device.inner));
        let error = device.check().unwrap_err().to_string();
        assert!(error.contains("MAP_READ") && !error.contains('\n'), "{error}");
        assert!(device.poll(None).is_err() && device.guarded("x", |_| ()).is_err());
    }

    #[test]
    fn a_guarded_error_is_the_answer_and_no_trouble() {
        let device = llvmpipe();
        let error = device.guarded("making a buffer", invalid_buffer).unwrap_err();
        assert!(error.to_string().contains("making a buffer: "), "{error}");
        device.check().unwrap();
    }

    #[test]
    fn more_memory_than_there_can_be_is_an_error() {
        let device = llvmpipe();
        let size = device.inner.limits().max_buffer_size + 16;
        let made = device.guarded("allocating", |device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        });
        assert!(made.is_err());
    }
}
