//! (map to be written when the house stands)
pub mod backend;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod convert;
pub mod encode;
pub mod error;
mod in_memory;
pub mod normalize;
pub mod plan;
mod report;
pub mod sink;
pub mod source;
pub mod tensor;

pub use backend::choose::{Device, Devices};
pub use convert::{Options, Watch, convert};
pub use error::Error;
pub use in_memory::{convert_batch, convert_channel, convert_image};
pub use normalize::{Extent, Norm, Range};
pub use plan::{Naming, Selection};
pub use report::{DeviceReport, Failure, Report, SampleReport};
pub use sink::{FilesSink, MemorySink, NullSink, Pending, Sink};
pub use source::{MemorySource, SafetensorsFiles, Source};
pub use tensor::{Dtype, Dump, TensorInfo};
