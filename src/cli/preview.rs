//! `tensortiff convert --dry-run`.

use std::io;

use serde::Serialize;

use super::args::ConvertArgs;
use super::convert::bytes;
use super::{Ending, Verbosity, counted, results, say};
use crate::convert::Preview;
use crate::error::{Error, shown};

/// What is called so has no place on a disk.
const STREAM: &str = "stream";

/// What is printed as JSON.
#[derive(Serialize)]
struct Told<'a> {
    images: u64,
    /// Files that images share, where they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip)]
    file: &'static str,
    there: u64,
    bytes_read: u64,
    bytes_written: u64,
    /// `bytes_written` are what they are at most.
    packed: bool,
    disk_bytes: u64,
    inodes: u64,
    memory_bytes: u64,
    free_bytes: Option<u64>,
    free_inodes: Option<u64>,
    devices: &'a [String],
    first: Option<&'a str>,
    last: Option<&'a str>,
    notes: &'a [String],
    refused: Option<String>,
}

pub(super) fn run(
    args: &ConvertArgs,
    preview: &Preview,
    verbosity: Verbosity,
) -> anyhow::Result<Ending> {
    let names = preview.first_and_last.as_ref();
    let told = Told {
        images: preview.images,
        files: preview.shared.map(|(files, _)| files),
        file: preview.shared.map_or("", |(_, file)| file),
        there: preview.there,
        bytes_read: preview.bytes_in,
        bytes_written: preview.need.files,
        packed: preview.packed,
        disk_bytes: preview.need.disk,
        inodes: preview.need.inodes,
        memory_bytes: preview.memory,
        free_bytes: preview.space.as_ref().map(|space| space.bytes),
        free_inodes: preview.space.as_ref().and_then(|space| space.inodes),
        devices: &preview.devices,
        first: names.map(|(first, _)| first.as_str()),
        last: names.map(|(_, last)| last.as_str()),
        notes: &preview.notes,
        refused: preview.refused.as_ref().map(ToString::to_string),
    };
    results(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &told)?;
            writeln!(out)
        } else {
            text(out, &told)
        }
    })?;
    if verbosity > Verbosity::Quiet && !args.json {
        preview.notes.iter().for_each(|note| say(&format!("tensortiff: note: {note}")));
    }
    match &preview.refused {
        None => Ok(Ending::Done),
        Some(error) => {
            say(&format!("tensortiff: error: {error}"));
            Ok(Ending::Refused)
        }
    }
}

/// Of a run that is refused before anything is known of it.
pub(super) fn refused(args: &ConvertArgs, error: Error) -> anyhow::Result<Ending> {
    if args.json {
        let told = serde_json::json!({ "refused": error.to_string() });
        results(|out| writeln!(out, "{told:#}"))?;
    }
    Err(error.into())
}

fn text(out: &mut dyn io::Write, told: &Told<'_>) -> io::Result<()> {
    let free = |free: Option<String>| free.map_or("unknown".to_owned(), |free| free);
    let there = match told.there {
        0 => String::new(),
        there => format!(", {there} of them there already"),
    };
    let files = told.files.filter(|_| told.file != STREAM);
    let files = files.map_or(String::new(), |files| format!(", in {}", counted(files, told.file)));
    writeln!(out, "images   {}{files}{there}", told.images)?;
    if let (Some(first), Some(last)) = (told.first, told.last) {
        writeln!(out, "first    {}", shown(first))?;
        writeln!(out, "last     {}", shown(last))?;
    }
    writeln!(out, "read     {}", bytes(told.bytes_read))?;
    if told.file == STREAM {
        // There is no disk.
        writeln!(out, "written  {}, to standard output", bytes(told.bytes_written))?;
        writeln!(out, "memory   {} of buffers at most", bytes(told.memory_bytes))?;
        return devices(out, told);
    }
    writeln!(
        out,
        "written  {}{}, on the disk at most {} of {} free",
        if told.packed { "at most " } else { "" },
        bytes(told.bytes_written),
        bytes(told.disk_bytes),
        free(told.free_bytes.map(bytes)),
    )?;
    writeln!(
        out,
        "inodes   {} files and folders at most, of {} free",
        told.inodes,
        free(told.free_inodes.map(|free| free.to_string())),
    )?;
    writeln!(out, "memory   {} of buffers at most", bytes(told.memory_bytes))?;
    devices(out, told)
}

fn devices(out: &mut dyn io::Write, told: &Told<'_>) -> io::Result<()> {
    writeln!(
        out,
        "devices  {}",
        told.devices.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ")
    )
}
