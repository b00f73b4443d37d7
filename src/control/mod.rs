//! The control plane: what Consul, the file, probes and operators say becomes one snapshot after another.

pub mod consul;
