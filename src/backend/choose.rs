//! Which devices a run uses.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Backend;
use crate::error::Error;
#[cfg(feature = "gpu")]
use crate::error::{nearest::near, shown};

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
    /// Like `Named`, with something going wrong when they are opened: for tests.
    #[cfg(feature = "gpu")]
    #[doc(hidden)]
    Hooked(String, &'static super::gpu::hooks::Hooks),
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
            #[cfg(feature = "gpu")]
            Device::Hooked(name, _) => f.write_str(name),
        }
    }
}

/// What became of the devices that were asked for.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) backends: Vec<Arc<dyn Backend + Send + Sync>>,
    /// Words that mean no adapter.
    pub(crate) unknown: Vec<String>,
    /// Adapters that cannot be used, and why.
    pub(crate) unusable: Vec<String>,
}

impl Opened {
    /// Everything that is in the way of using what was asked for.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &str> {
        self.unknown.iter().chain(&self.unusable).map(String::as_str)
    }

    /// The backends among `wanted` that are ready, and what else is wanted.
    fn ready(wanted: &[Device]) -> (Opened, Vec<&Device>) {
        let mut opened = Opened::default();
        let mut rest = Vec::new();
        for device in wanted {
            match device {
                Device::Ready(backend) => opened.backends.push(Arc::clone(backend)),
                other => rest.push(other),
            }
        }
        (opened, rest)
    }
}

/// Opens adapters and proves their arithmetic: tens of milliseconds to seconds, as the driver
/// likes. `threads` is how many threads a GPU may write with.
#[cfg(feature = "gpu")]
pub(crate) fn open(wanted: &[Device], threads: usize) -> Opened {
    use super::gpu::{Gpu, adapters, hooks::Hooks};
    use std::collections::BTreeMap;

    let (mut opened, rest) = Opened::ready(wanted);
    if rest.is_empty() {
        return opened;
    }
    let all = adapters();
    let infos: Vec<_> = all.iter().map(|adapter| adapter.info.clone()).collect();
    // Each once, by index.
    let mut chosen = BTreeMap::new();
    for device in rest {
        let hooks = match device {
            Device::Hooked(_, hooks) => hooks,
            _ => &Hooks::NONE,
        };
        match matching(device, &infos) {
            Ok(indices) => chosen.extend(indices.into_iter().map(|index| (index, hooks))),
            Err(problem) => opened.unknown.push(problem),
        }
    }
    for (index, hooks) in chosen {
        match Gpu::open_with(&all[index], threads, hooks) {
            Ok(gpu) => opened.backends.push(Arc::new(gpu)),
            Err(error) => opened.unusable.push(format!("{error}; it is not used")),
        }
    }
    opened
}

/// Indices of the adapters that a word means.
#[cfg(feature = "gpu")]
fn matching(device: &Device, adapters: &[super::gpu::AdapterInfo]) -> Result<Vec<usize>, String> {
    let found: Vec<usize> = adapters
        .iter()
        .filter(|adapter| match device {
            Device::Gpu => !adapter.is_software(),
            // 4090 is no index, but may be part of a name.
            Device::Index(index) if *index >= adapters.len() => {
                adapter.matches_name(&index.to_string())
            }
            Device::Index(index) => adapter.index == *index,
            Device::Named(name) | Device::Hooked(name, _) => adapter.matches_name(name),
            Device::Cpu | Device::Ready(_) => false,
        })
        .map(|adapter| adapter.index)
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let names: Vec<String> =
        adapters.iter().map(|a| format!("{} {}", a.index, shown(&a.name))).collect();
    let there = match names.len() {
        0 => "there is no adapter, or no driver for it".to_owned(),
        _ => format!("there are: {}", names.join(", ")),
    };
    Err(match device {
        Device::Gpu if names.is_empty() => "no GPU adapter was found".to_owned(),
        Device::Gpu => {
            format!("no hardware GPU adapter was found; software ones must be named ({there})")
        }
        other => {
            let name = format!("{other:?}");
            // Names of adapters are listed; these words are not.
            let nearest = near(&name, ["auto", "cpu", "gpu"]);
            let nearest = nearest.map_or(String::new(), |word| format!("; the nearest is {word}"));
            format!("no GPU adapter is meant by {}; {there}{nearest}", shown(&name))
        }
    })
}

/// Without the `gpu` feature there are no adapters.
#[cfg(not(feature = "gpu"))]
pub(crate) fn open(wanted: &[Device], _threads: usize) -> Opened {
    let (mut opened, rest) = Opened::ready(wanted);
    if !rest.is_empty() {
        opened.unknown.push("this tensortiff was built without GPU support".to_owned());
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

    #[test]
    #[cfg(feature = "gpu")]
    fn software_is_meant_only_by_its_name_or_index() {
        use crate::backend::gpu::{AdapterInfo, Kind};
        let adapter = |index, name: &str, kind| AdapterInfo {
            index,
            name: name.to_owned(),
            driver: String::new(),
            api: "vulkan".to_owned(),
            kind,
            max_binding: 1 << 27,
        };
        let all = [
            adapter(0, "llvmpipe (LLVM 15)", Kind::Software),
            adapter(1, "Some Card 9000", Kind::Discrete),
            adapter(2, "Some Chip", Kind::Integrated),
        ];
        let meant = |device: Device| matching(&device, &all).unwrap();
        assert_eq!(meant(Device::Gpu), [1, 2]);
        assert_eq!(meant(Device::Named("LLVM".to_owned())), [0]);
        assert_eq!(meant(Device::Named("some".to_owned())), [1, 2]);
        assert_eq!(meant(Device::Index(0)), [0]);
        assert_eq!(meant(Device::Index(9000)), [1]);
        let problem = |device: &Device, all: &[AdapterInfo]| matching(device, all).unwrap_err();
        assert!(problem(&Device::Gpu, &all[..1]).contains("software ones must be named"));
        assert!(problem(&Device::Gpu, &[]).contains("no GPU adapter was found"));
        assert!(problem(&Device::Index(3), &all).contains("Some Card 9000"));
        let slip = problem(&Device::Named("cpuu".to_owned()), &all);
        assert!(slip.ends_with("Some Chip; the nearest is cpu"), "{slip}");
        assert!(!problem(&Device::Named("nvidia".to_owned()), &all).contains("nearest"));
    }
}
