//! `tensortiff devices`.

use std::io;

use serde::Serialize;

use super::args::DevicesArgs;
use super::{Ending, results, say};
use crate::error::shown;

/// One adapter of the list.
#[derive(Serialize)]
pub(super) struct Line {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) kind: String,
    api: String,
    driver: String,
    max_storage_buffer_binding_size: u64,
    /// Whether `--device auto` uses it.
    pub(super) auto: bool,
    pub(super) passed: bool,
    pub(super) proof: String,
}

pub(super) fn run(args: &DevicesArgs) -> anyhow::Result<Ending> {
    if cfg!(not(feature = "gpu")) {
        say("this tensortiff was built without GPU support");
    }
    let lines = lines();
    results(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &lines)?;
            writeln!(out)
        } else {
            lines.iter().try_for_each(|line| text(out, line))
        }
    })?;
    if lines.is_empty() && !args.json && cfg!(feature = "gpu") {
        say("no GPU adapter was found (no card, or no driver for it); the CPU does all work");
    }
    Ok(Ending::Done)
}

fn text(out: &mut dyn io::Write, line: &Line) -> io::Result<()> {
    writeln!(out, "{} {} ({}, {})", line.index, shown(&line.name), line.kind, line.api)?;
    writeln!(out, "    driver   {}", shown(&line.driver))?;
    let mib = line.max_storage_buffer_binding_size >> 20;
    writeln!(out, "    binding  {mib} MiB at most")?;
    writeln!(out, "    proof    {}", line.verdict())?;
    writeln!(out, "    use      {}", line.used())
}

impl Line {
    pub(super) fn verdict(&self) -> String {
        let verdict = if self.passed { "passed" } else { "FAILED, not used" };
        format!("{verdict}: {}", shown(&self.proof))
    }

    /// Whether, and if not why not.
    pub(super) fn used(&self) -> &'static str {
        match (self.auto, self.passed) {
            (true, _) => "--device auto uses it",
            (false, true) => "software: used only when named, since the CPU is faster",
            (false, false) => "not used",
        }
    }
}

/// All adapters, each opened and proved.
#[cfg(feature = "gpu")]
pub(super) fn lines() -> Vec<Line> {
    use crate::backend::gpu::{Gpu, adapters};

    let line = |adapter: crate::backend::gpu::Adapter| {
        let (passed, proof) = match Gpu::open(&adapter, 1) {
            Ok(gpu) => (true, gpu.proof().to_string()),
            Err(error) => (false, error.to_string()),
        };
        let info = adapter.info;
        Line {
            index: info.index,
            auto: passed && !info.is_software(),
            kind: info.kind.to_string(),
            name: info.name,
            api: info.api,
            driver: info.driver,
            max_storage_buffer_binding_size: info.max_binding,
            passed,
            proof,
        }
    };
    adapters().into_iter().map(line).collect()
}

#[cfg(not(feature = "gpu"))]
pub(super) fn lines() -> Vec<Line> {
    Vec::new()
}
