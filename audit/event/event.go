// Package event is the vocabulary of the audit record: what an act is
// called, its code, and the fields it may carry. It is pure, so that nodes
// can speak it without linking the store.
package event

import "time"

// Event is one audit record. Type decides Code and Title (see Catalogue);
// the log fills in UID, Time and Cluster where they are empty.
type Event struct {
	Type    Type      `json:"event"`
	Code    string    `json:"code"`
	Time    time.Time `json:"time"`
	UID     string    `json:"uid"`
	Cluster string    `json:"cluster_name"`
	// User is who acted: a user's name, "os:NAME" for an administrator on
	// the control-plane machine, "node:ID" for a node, "mdm:NAME" for the
	// schedule of a device management source; in a user.login that
	// failed whom somebody claimed to be; empty where that is not known.
	User    string `json:"user"`
	Success bool   `json:"success"`
	// Message says why, in full, where Success is false.
	Message string  `json:"message,omitempty"`
	Device  *Device `json:"device,omitempty"`
	// TrustedDevice is set on all that a session with a device does.
	TrustedDevice *Device `json:"trusted_device,omitempty"`
	// Key is of the SSH certificate that an act led to, or that opened a session
	// or would have.
	Key *Key `json:"key,omitempty"`

	Name       string    `json:"name,omitempty"` // of the resource acted on
	Kind       string    `json:"kind,omitempty"` // of the resource acted on
	RemoteAddr string    `json:"addr.remote,omitempty"`
	Login      string    `json:"login,omitempty"`
	LoginID    string    `json:"login_id,omitempty"`
	Roles      []string  `json:"roles,omitempty"`
	Serials    []uint64  `json:"serials,omitempty"`
	ValidUntil time.Time `json:"valid_until,omitzero"`
	NodeID     string    `json:"server_id,omitempty"`
	NodeName   string    `json:"server_hostname,omitempty"`
	SessionID  string    `json:"sid,omitempty"`
	Command    string    `json:"command,omitempty"`
	ExitStatus *int      `json:"exit_code,omitempty"`
	Reasons    []string  `json:"reasons,omitempty"`
	Bytes      *int64    `json:"bytes,omitempty"`    // to the client
	BytesIn    *int64    `json:"bytes_in,omitempty"` // from the client

	// Action is which one of a kind: "open", "rename" of SFTP; "connect",
	// "listen", "accept", "end" (by policy) of a port; "upload", "download" of
	// scp; "renew" of certificates by which a login lives on.
	Action string `json:"action,omitempty"`
	// Path and TargetPath are files on the node; what is not UTF-8 is quoted.
	Path       string `json:"path,omitempty"`
	TargetPath string `json:"target_path,omitempty"`
	// Addr is the other end of a forwarded connection: HOST:PORT, or a
	// socket's path.
	Addr string `json:"addr.local,omitempty"`
}

// Device identifies a device in a record.
type Device struct {
	DeviceID     string `json:"device_id,omitempty"`
	AssetTag     string `json:"asset_tag,omitempty"`
	OSType       string `json:"os_type,omitempty"`
	CredentialID string `json:"credential_id,omitempty"`
}

// Key says where the private key of an SSH certificate is.
type Key struct {
	// Policy is what the certificate says: "hardware_key" where the key is proved
	// to be in the device's TPM.
	Policy string `json:"policy,omitempty"`
	// Attestation is hex of the SHA-256 over Public, CertifyInfo and Signature,
	// each with its length before it (uint32, big-endian).
	Attestation string `json:"attestation,omitempty"`
	// The proof, as the TPM gave it: TPMT_PUBLIC of the key, TPMS_ATTEST and
	// TPMT_SIGNATURE of the device's attestation key (TPM 2.0 Part 2).
	Public      []byte `json:"public,omitempty"`
	CertifyInfo []byte `json:"certify_info,omitempty"`
	Signature   []byte `json:"signature,omitempty"`
}
