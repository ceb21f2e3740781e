//! `tensortiff devices`.

use super::Ending;
use super::args::DevicesArgs;

pub(super) fn run(_args: &DevicesArgs) -> anyhow::Result<Ending> {
    Ok(Ending::Done)
}
