//! The gRPC code generated from the `.proto` files beside this crate: what nodes say to each other.
//!
//! It knows only shapes. What the bodies mean is known by the crate that owns the service.
#![allow(missing_docs, reason = "generated code; the .proto files carry the comments")]

/// Raft and membership, port 8300.
pub mod consensus {
    tonic::include_proto!("conclave.consensus.v1");
}

/// Orders to a node's database driver, port 8300.
pub mod database {
    tonic::include_proto!("conclave.database.v1");
}

/// Transfer of file contents, port 22000.
pub mod files {
    tonic::include_proto!("conclave.files.v1");
}

/// An operator's questions and orders, port 8300.
pub mod operator {
    tonic::include_proto!("conclave.operator.v1");
}
