//! `tensortiff manifest`.

use std::fs::File;
use std::io;

use super::args::ManifestArgs;
use super::{Ending, results};
use crate::back::Output;
use crate::error::Error;
use crate::record::manifest::{Line, Manifest};

/// The columns of CSV.
const COLUMNS: [&str; 21] = [
    "name", "source", "tensor", "index", "dtype", "height", "width", "lo", "hi", "norm", "mean",
    "std", "nan", "inf", "bytes", "xxh3", "existed", "error", "page", "member", "offset",
];

pub(super) fn run(args: &ManifestArgs) -> anyhow::Result<Ending> {
    let mut found = Vec::new();
    for Output { manifest: path, .. } in Output::find(&args.path, None)? {
        found.extend(Manifest::open(&path)?.map(|manifest| (path, manifest)));
    }
    let mut damaged = None;
    results(|out| {
        if !args.csv {
            // As they are.
            return found
                .iter()
                .try_for_each(|(path, _)| io::copy(&mut File::open(path)?, out).map(drop));
        }
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(COLUMNS)?;
        for (path, mut manifest) in found {
            let images = manifest.head().identity.images;
            for image in 0..images {
                let Some(line) = manifest.next_line().map_err(io::Error::other)? else {
                    damaged = Some((path, image + 2, images));
                    return csv.flush();
                };
                csv.write_record(fields(&line))?;
            }
        }
        csv.flush()
    })?;
    if let Some((path, line, images)) = damaged {
        let problem =
            format!("line {line} is none of the {images} that it has of images; it is damaged");
        return Err(Error::Format { path, format: "manifest", problem }.into());
    }
    Ok(Ending::Done)
}

fn fields(line: &Line<'_>) -> [String; COLUMNS.len()] {
    let number = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let real = |real: Option<f64>| real.map_or(String::new(), |real| format!("{real:?}"));
    let index: Vec<String> = line.index.iter().map(u64::to_string).collect();
    let [height, width] = line.shape;
    [
        line.name.to_string(),
        line.source.to_string(),
        line.tensor.to_string(),
        index.join("_"),
        line.dtype.to_string(),
        height.to_string(),
        width.to_string(),
        real(line.lo),
        real(line.hi),
        line.norm.to_string(),
        real(line.mean),
        real(line.std),
        number(line.nan),
        number(line.inf),
        number(line.bytes),
        line.xxh3.map_or(String::new(), String::from),
        line.existed.to_string(),
        line.error.as_deref().unwrap_or_default().to_owned(),
        number(line.page),
        line.member.as_deref().unwrap_or_default().to_owned(),
        number(line.offset),
    ]
}
