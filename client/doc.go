// Package client is a person's machine: the profiles and keys in DTSH_HOME,
// the API connection and whom it trusts, the login with its device ceremony,
// and the SSH client.
//
// Nothing here is trusted on first use. A server is believed where its
// certificate leads to an authority that the person named (a pin, a file),
// that an earlier login brought, or that the system knows; a node where its
// host certificate is the cluster's.
package client
