//! The results as text.

use std::io;

use super::results::{
    AdapterResults, DeviceResults, KernelResults, Pays, Results, Rounds, SetResults, Share, Speed,
    Verdict,
};
use crate::cli::convert::bytes;
use crate::convert::HEAD_START;
use crate::error::{counted, shown};

/// Everything. `auto`: whether that was asked for.
pub(super) fn write(out: &mut dyn io::Write, results: &Results, auto: bool) -> io::Result<()> {
    let memory = &results.memory;
    writeln!(
        out,
        "memory copy: {} GB/s with 1 thread, {} with {}",
        with_range(&memory.memory_copy_one),
        with_range(&memory.memory_copy_all),
        threads(results)
    )?;
    results.adapters.iter().try_for_each(|adapter| copies(out, adapter))?;
    writeln!(out, "files in {}", shown(&results.folder))?;
    results.sets.iter().try_for_each(|one| set(out, one, results))?;
    writeln!(out)?;
    devices(out, results)?;
    pays(out, results, auto)
}

/// That copied memory.
fn threads(results: &Results) -> String {
    if results.memory.memory_copy_threads == 1 {
        "1 thread".to_owned()
    } else {
        counted(results.memory.memory_copy_threads as u64, "thread")
    }
}

fn with_range(speed: &Rounds) -> String {
    format!("{} ({})", number(speed.median), range(speed))
}

fn range(speed: &Rounds) -> String {
    format!("{}-{}", number(speed.least), number(speed.greatest))
}

/// Two decimals, or two digits of what has none of those.
fn number(speed: f64) -> String {
    match speed {
        0.0 => "0".to_owned(),
        ..0.001 => format!("{speed:.1e}"),
        ..0.01 => format!("{speed:.4}"),
        ..0.1 => format!("{speed:.3}"),
        _ => format!("{speed:.2}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn copies(out: &mut dyn io::Write, adapter: &AdapterResults) -> io::Result<()> {
    writeln!(
        out,
        "{}: memory copy {} GB/s read and written, {} up, {} down",
        shown(&adapter.name),
        number(adapter.memory_copy),
        number(adapter.up),
        number(adapter.down)
    )
}

fn set(out: &mut dyn io::Write, set: &SetResults, results: &Results) -> io::Result<()> {
    let name = shown(&set.name);
    let images = if set.images == 1 { "image" } else { "images" };
    writeln!(out, "\n{name}: {} {images}, {} of samples", set.images, bytes(set.bytes))?;
    let all = threads(results);
    writeln!(out, "{:40}{:>30}{:>9}", "", "of memory copy", "of file")?;
    let [a, b, c, d] = ["GB/s", "range", "1 thread", "copy"];
    writeln!(out, "{:24}{a:>9}{b:>16}{c:>10}{all:>12}{d:>8}", "")?;
    writeln!(out, "  plain copies")?;
    line(out, "reading", &set.read)?;
    line(out, "file copy", &set.file_copy)?;
    set.devices.iter().try_for_each(|one| device(out, one))?;
    for left_out in &set.not_measured {
        writeln!(out, "  {}: not measured: {}", shown(&left_out.name), left_out.why)?;
    }
    set.kernels.iter().try_for_each(|one| kernel(out, one))
}

fn line(out: &mut dyn io::Write, what: &str, speed: &Speed) -> io::Result<()> {
    writeln!(
        out,
        "    {what:20}{:>9}{:>16}{:>10}{:>12}{:>8}",
        number(speed.rounds.median),
        range(&speed.rounds),
        percent(speed.of_memory_copy_one),
        percent(speed.of_memory_copy_all),
        percent(speed.of_file_copy)
    )
}

fn device(out: &mut dyn io::Write, device: &DeviceResults) -> io::Result<()> {
    let share = |one: &Share| format!("{} {}", shown(&one.device), percent(one.share));
    let alone = matches!(&device.shares[..], [one] if one.device == device.name);
    let by = match () {
        () if alone => String::new(),
        () => format!(": {}", device.shares.iter().map(share).collect::<Vec<_>>().join(", ")),
    };
    writeln!(out, "  {}{by}", shown(&device.name))?;
    line(out, "to nothing", &device.to_nothing)?;
    line(out, "to files", &device.to_files)?;
    let stages = [("read", device.read), ("compute", device.compute), ("write", device.write)];
    for (stage, speed) in stages {
        match speed {
            Some(speed) => writeln!(out, "      {stage:18}{:>9}", number(speed))?,
            None => writeln!(out, "      {stage:18}{:>9}", "-")?,
        }
    }
    writeln!(out, "      {:18}{:>9}", "wait", percent(device.wait))
}

fn kernel(out: &mut dyn io::Write, kernel: &KernelResults) -> io::Result<()> {
    let speed = match (kernel.speed, kernel.of_memory_copy) {
        (Some(speed), Some(share)) => {
            format!("{} GB/s, {} of its memory copy", number(speed), percent(share))
        }
        _ => "not timed: the adapter has no clock for it".to_owned(),
    };
    let (adapter, name, times) = (shown(&kernel.adapter), kernel.kernel, kernel.dispatches);
    writeln!(out, "  {adapter}: kernel {name}: {speed} ({times} times)")
}

/// What `auto` uses, and why.
fn devices(out: &mut dyn io::Write, results: &Results) -> io::Result<()> {
    if let Some(auto) = &results.auto {
        writeln!(out, "--device auto uses: {}", shown(&auto.join(", ")))?;
    }
    for adapter in results.found.iter().flatten() {
        let name = shown(&adapter.name);
        writeln!(out, "  {} {name}, {}", adapter.index, adapter.kind)?;
        writeln!(out, "    use   {}", adapter.used())?;
        writeln!(out, "    proof {}", adapter.verdict())?;
    }
    results.not_used.iter().try_for_each(|why| writeln!(out, "  not used: {}", shown(why)))?;
    if results.found.is_none() {
        writeln!(out, "adapters were not looked for (--device); `tensortiff devices` lists them")?;
    }
    Ok(())
}

/// Whether it is faster with the GPU.
fn pays(out: &mut dyn io::Write, results: &Results, auto: bool) -> io::Result<()> {
    if auto && results.auto.as_ref().is_some_and(|auto| auto.len() == 1) {
        return writeln!(out, "no GPU takes part, so none can pay on this machine");
    }
    for set in &results.sets {
        let Some(pays) = &set.gpu_pays else { continue };
        let verdict = match pays.verdict {
            Verdict::Yes => "pays",
            Verdict::No => "does not pay",
            Verdict::Unclear if results.rounds < Pays::ROUNDS => {
                "may pay or not, which fewer than five rounds do not tell"
            }
            Verdict::Unclear => "makes no difference beyond that of the rounds",
        };
        let (name, times) = (shown(&set.name), pays.times_cpu);
        writeln!(out, "{name}: the GPU {verdict}: together {times:.2} times the speed of the CPU")?;
    }
    if results.adapters_seconds > 0.0 && !results.adapters.is_empty() {
        writeln!(
            out,
            "opening and proving the adapters took {:.2} s; with --device auto that begins after \
             {:.1} s, so shorter runs use the CPU alone",
            results.adapters_seconds,
            HEAD_START.as_secs_f64()
        )?;
    }
    Ok(())
}
