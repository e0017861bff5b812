//! What the tests share: a simulated disk and clock, a model of the store, workloads.
//!
//! | module | in | out |
//! | --- | --- | --- |
//! | [`rng`] | a seed | the same numbers for ever |
//! | [`sim`] | the engine's calls, a plan of faults | bytes, errors, the disk after a power cut |
//! | [`workload`] | a seed, bounds | events as mail servers report them, and as none should |
//! | [`model`] | events | what the store must answer |
//! | [`drive`] | a store, a model, steps | both did the same, or in what they differ |
//! | [`device`] | a file system's kind | real file systems on devices that lose what was not flushed |
//! | [`hostile`] | any bytes | a panic, when a decoder is not up to them |

pub mod rng;

pub mod sim;

pub mod workload;

pub mod model;

pub mod drive;

pub mod hostile;

pub mod program;

pub mod device;
