// Package resource is how users, roles, devices and the rest are written
// down: Teleport's YAML shapes, parsed strictly. The same types are the JSON
// of the API and of the command line.
package resource

import (
	"time"

	"devicetrust/policy"
)

// Kinds of resource.
const (
	KindUser          = "user"
	KindRole          = "role"
	KindDevice        = "device"
	KindPreference    = "cluster_auth_preference"
	KindLock          = "lock"
	KindToken         = "token"
	KindNode          = "node"
	KindCertAuthority = "cert_authority"
	KindEvent         = "event" // in rules only
)

// PreferenceName is the name of the only cluster_auth_preference.
const PreferenceName = "cluster-auth-preference"

// Resource is any one of the types below, by pointer.
type Resource interface {
	// Head is the part that all kinds share.
	Head() *Header
}

// Header is what every resource starts with.
type Header struct {
	Kind     string   `yaml:"kind" json:"kind"`
	Version  string   `yaml:"version" json:"version"`
	Metadata Metadata `yaml:"metadata" json:"metadata"`
}

// Head returns h; embedding Header makes a type a Resource.
func (h *Header) Head() *Header { return h }

// Metadata names a resource.
type Metadata struct {
	Name        string            `yaml:"name" json:"name"`
	Description string            `yaml:"description,omitempty" json:"description,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	// Expires: the zero time is never.
	Expires time.Time `yaml:"expires,omitempty" json:"expires,omitzero"`
	// Revision is the server's; an update that carries one replaces only
	// that one.
	Revision string `yaml:"revision,omitempty" json:"revision,omitempty"`
	// ID is what older documents carry in place of Revision; it is read so
	// that they load, and has no effect.
	ID int64 `yaml:"id,omitempty" json:"-"`
}

// User is kind user, version v2.
type User struct {
	Header `yaml:",inline"`
	Spec   UserSpec `yaml:"spec" json:"spec"`
}

// UserSpec is who somebody is to policy; passwords are not part of it.
type UserSpec struct {
	Roles  []string            `yaml:"roles,omitempty" json:"roles,omitempty"`
	Traits map[string][]string `yaml:"traits,omitempty" json:"traits,omitempty"`
	// Set by the server; a document may carry them.
	CreatedBy CreatedBy  `yaml:"created_by,omitempty" json:"created_by,omitzero"`
	Expires   time.Time  `yaml:"expires,omitempty" json:"expires,omitzero"`
	Status    UserStatus `yaml:"status,omitempty" json:"status,omitzero"`
	// TrustedDeviceIDs are the enrolled devices that this user's logins may be
	// one with; the server's.
	TrustedDeviceIDs []string `yaml:"trusted_device_ids,omitempty" json:"trusted_device_ids,omitempty"`
}

// CreatedBy says when, and by whom.
type CreatedBy struct {
	Time time.Time `yaml:"time,omitempty" json:"time,omitzero"`
	User struct {
		Name string `yaml:"name,omitempty" json:"name,omitempty"`
	} `yaml:"user,omitempty" json:"user,omitzero"`
}

// UserStatus: is_locked is derived from locks; a document may carry it only
// as false.
type UserStatus struct {
	IsLocked bool `yaml:"is_locked" json:"is_locked"`
}

// Role is kind role, versions v3 to v8 read, v7 written.
type Role struct {
	Header `yaml:",inline"`
	Spec   policy.RoleSpec `yaml:"spec" json:"spec"`
}

// Preference is kind cluster_auth_preference, version v2.
type Preference struct {
	Header `yaml:",inline"`
	Spec   PreferenceSpec `yaml:"spec" json:"spec"`
}

// PreferenceSpec: type and second_factor take only the values that are
// supported, "local" and "off".
type PreferenceSpec struct {
	Type              string `yaml:"type,omitempty" json:"type,omitempty"`
	SecondFactor      string `yaml:"second_factor,omitempty" json:"second_factor,omitempty"`
	policy.Preference `yaml:",inline"`
}

// Lock is kind lock, version v2.
type Lock struct {
	Header `yaml:",inline"`
	Spec   LockSpec `yaml:"spec" json:"spec"`
}

// LockSpec: who is kept out, why and how long.
type LockSpec struct {
	Target    policy.LockTarget `yaml:"target" json:"target"`
	Message   string            `yaml:"message,omitempty" json:"message,omitempty"`
	Expires   time.Time         `yaml:"expires,omitempty" json:"expires,omitzero"`
	CreatedAt time.Time         `yaml:"created_at,omitempty" json:"created_at,omitzero"`
	CreatedBy string            `yaml:"created_by,omitempty" json:"created_by,omitempty"`
}

// Device is kind device, version v1; metadata.name is its ID.
type Device struct {
	Header `yaml:",inline"`
	Spec   DeviceSpec `yaml:"spec" json:"spec"`
}

// Enrollment states.
const (
	Enrolled    = "enrolled"
	NotEnrolled = "not_enrolled"
)

// DeviceSpec: product.md section 3.
type DeviceSpec struct {
	OSType       string `yaml:"os_type" json:"os_type"`
	AssetTag     string `yaml:"asset_tag" json:"asset_tag"`
	EnrollStatus string `yaml:"enroll_status,omitempty" json:"enroll_status,omitempty"`
	// Owner is who enrolled it; the server's.
	Owner string `yaml:"owner,omitempty" json:"owner,omitempty"`
	// Owners are the others whose logins it may authenticate, as an
	// administrator says.
	Owners     []string       `yaml:"owners,omitempty" json:"owners,omitempty"`
	Source     *DeviceSource  `yaml:"source,omitempty" json:"source,omitempty"`
	Profile    *DeviceProfile `yaml:"profile,omitempty" json:"profile,omitempty"`
	Credential *Credential    `yaml:"credential,omitempty" json:"credential,omitempty"`
	// Frozen: its TPM went back in time. It is enrolled, and trusted no more
	// until an administrator accepts it.
	Frozen *DeviceFreeze `yaml:"frozen,omitempty" json:"frozen,omitempty"`
	// Baseline is what it should show; Evidence what it last showed.
	Baseline      *DeviceBaseline `yaml:"baseline,omitempty" json:"baseline,omitempty"`
	Evidence      *DeviceEvidence `yaml:"evidence,omitempty" json:"evidence,omitempty"`
	CollectedData []CollectedData `yaml:"collected_data,omitempty" json:"collected_data,omitempty"`
	CreateTime    time.Time       `yaml:"create_time,omitempty" json:"create_time,omitzero"`
	UpdateTime    time.Time       `yaml:"update_time,omitempty" json:"update_time,omitzero"`
	LastSeenTime  time.Time       `yaml:"last_seen_time,omitempty" json:"last_seen_time,omitzero"`
}

// DeviceProfile is what a device management system, or an administrator, knows
// of a device. Auto-enrollment wants the device to report the same; fields
// that it does not report (external_id, update_time) are for people.
type DeviceProfile struct {
	ExternalID        string    `yaml:"external_id,omitempty" json:"external_id,omitempty"`
	UpdateTime        time.Time `yaml:"update_time,omitempty" json:"update_time,omitzero"`
	OSID              string    `yaml:"os_id,omitempty" json:"os_id,omitempty"`
	OSVersion         string    `yaml:"os_version,omitempty" json:"os_version,omitempty"`
	OSBuild           string    `yaml:"os_build,omitempty" json:"os_build,omitempty"`
	KernelVersion     string    `yaml:"kernel_version,omitempty" json:"kernel_version,omitempty"`
	Hostname          string    `yaml:"hostname,omitempty" json:"hostname,omitempty"`
	ModelIdentifier   string    `yaml:"model_identifier,omitempty" json:"model_identifier,omitempty"`
	SerialNumber      string    `yaml:"serial_number,omitempty" json:"serial_number,omitempty"`
	AssetTag          string    `yaml:"asset_tag,omitempty" json:"asset_tag,omitempty"`
	JamfBinaryVersion string    `yaml:"jamf_binary_version,omitempty" json:"jamf_binary_version,omitempty"`
	// OSUsernames: the account that reports must be one of them.
	OSUsernames []string `yaml:"os_usernames,omitempty" json:"os_usernames,omitempty"`
}

// DeviceFreeze says since when, and why.
type DeviceFreeze struct {
	Time   time.Time `yaml:"time" json:"time"`
	Reason string    `yaml:"reason" json:"reason"`
}

// DeviceBaseline is what a device should show: its PCRs as they were accepted,
// and the counters of its TPM as they last were (TPMS_CLOCK_INFO, TPM 2.0 Part
// 2, section 10.11.1), which only grow.
type DeviceBaseline struct {
	Time time.Time `yaml:"time,omitempty" json:"time,omitzero"`
	// PCRs are hex of the SHA-256 bank's values, by "0" to "23".
	PCRs         map[string]string `yaml:"pcrs,omitempty" json:"pcrs,omitempty"`
	ResetCount   int64             `yaml:"reset_count" json:"reset_count"`
	RestartCount int64             `yaml:"restart_count" json:"restart_count"`
	// ClockMillis is the time, in milliseconds, that the TPM has been on.
	ClockMillis int64  `yaml:"clock_millis" json:"clock_millis"`
	Firmware    string `yaml:"firmware,omitempty" json:"firmware,omitempty"`
}

// DeviceEvidence is what a device last proved of itself.
type DeviceEvidence struct {
	Time time.Time `yaml:"time,omitempty" json:"time,omitzero"`
	// Level is key, quote, event_log or secure_boot.
	Level string `yaml:"level" json:"level"`
	// TPMManufacturer is the vendor ID in an endorsement key certificate that
	// chains to a listed CA; TPMFirmware is what the TPM signed.
	TPMManufacturer string `yaml:"tpm_manufacturer,omitempty" json:"tpm_manufacturer,omitempty"`
	TPMFirmware     string `yaml:"tpm_firmware,omitempty" json:"tpm_firmware,omitempty"`
	// ChangedPCRs differ from the baseline.
	ChangedPCRs []int64 `yaml:"changed_pcrs,omitempty" json:"changed_pcrs,omitempty"`
	// Reasons say why the level is no higher; one line each.
	Reasons []string `yaml:"reasons,omitempty" json:"reasons,omitempty"`
}

// DeviceSource is where a registration came from.
type DeviceSource struct {
	Name   string `yaml:"name" json:"name"`
	Origin string `yaml:"origin" json:"origin"`
}

// Credential is what an enrollment left.
type Credential struct {
	// ID is hex of the SHA-256 of the AK's TPMT_PUBLIC.
	ID string `yaml:"id" json:"id"`
	// PublicKeyDER is the AK's public key, PKIX DER, base64 in YAML and JSON.
	PublicKeyDER Bytes `yaml:"public_key_der" json:"public_key_der"`
	// DeviceAttestationType: tpm_ekpub, tpm_ekcert, tpm_ekcert_trusted;
	// macos_key.
	DeviceAttestationType string `yaml:"device_attestation_type" json:"device_attestation_type"`
	TPMSerial             string `yaml:"tpm_serial,omitempty" json:"tpm_serial,omitempty"`
	// TPMEKKeyDigest is hex of the SHA-256 of the EK public key (PKIX DER).
	TPMEKKeyDigest string `yaml:"tpm_ek_key_digest,omitempty" json:"tpm_ek_key_digest,omitempty"`
	// TPMAKPublic is the AK's TPMT_PUBLIC.
	TPMAKPublic Bytes `yaml:"tpm_ak_public,omitempty" json:"tpm_ak_public,omitempty"`
}

// CollectedData is what a device reported of itself.
type CollectedData struct {
	CollectTime           time.Time `yaml:"collect_time,omitempty" json:"collect_time,omitzero"`
	RecordTime            time.Time `yaml:"record_time,omitempty" json:"record_time,omitzero"`
	OSType                string    `yaml:"os_type,omitempty" json:"os_type,omitempty"`
	AssetTag              string    `yaml:"asset_tag,omitempty" json:"asset_tag,omitempty"`
	OSID                  string    `yaml:"os_id,omitempty" json:"os_id,omitempty"`
	OSVersion             string    `yaml:"os_version,omitempty" json:"os_version,omitempty"`
	OSBuild               string    `yaml:"os_build,omitempty" json:"os_build,omitempty"`
	KernelVersion         string    `yaml:"kernel_version,omitempty" json:"kernel_version,omitempty"`
	Hostname              string    `yaml:"hostname,omitempty" json:"hostname,omitempty"`
	ModelIdentifier       string    `yaml:"model_identifier,omitempty" json:"model_identifier,omitempty"`
	SerialNumber          string    `yaml:"serial_number,omitempty" json:"serial_number,omitempty"`
	ReportedAssetTag      string    `yaml:"reported_asset_tag,omitempty" json:"reported_asset_tag,omitempty"`
	SystemSerialNumber    string    `yaml:"system_serial_number,omitempty" json:"system_serial_number,omitempty"`
	BaseBoardSerialNumber string    `yaml:"base_board_serial_number,omitempty" json:"base_board_serial_number,omitempty"`
	TPMManufacturer       string    `yaml:"tpm_manufacturer,omitempty" json:"tpm_manufacturer,omitempty"`
	TPMFirmware           string    `yaml:"tpm_firmware,omitempty" json:"tpm_firmware,omitempty"`
	OSUsername            string    `yaml:"os_username,omitempty" json:"os_username,omitempty"`
	// macOS only.
	JamfBinaryVersion       string `yaml:"jamf_binary_version,omitempty" json:"jamf_binary_version,omitempty"`
	MacOSEnrollmentProfiles string `yaml:"macos_enrollment_profiles,omitempty" json:"macos_enrollment_profiles,omitempty"`
}

// Token is kind token, version v2: a join token without its secret;
// metadata.name is the public half.
type Token struct {
	Header `yaml:",inline"`
	Spec   TokenSpec `yaml:"spec" json:"spec"`
}

// TokenSpec: roles is ["Node"].
type TokenSpec struct {
	Roles  []string          `yaml:"roles" json:"roles"`
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
}

// Node is kind node, version v2; metadata.name is its ID.
type Node struct {
	Header `yaml:",inline"`
	Spec   NodeSpec `yaml:"spec" json:"spec"`
}

// NodeSpec is what a node told at its last heartbeat.
type NodeSpec struct {
	Hostname      string    `yaml:"hostname" json:"hostname"` // the node's name
	Addr          string    `yaml:"addr" json:"addr"`
	PublicAddrs   []string  `yaml:"public_addrs,omitempty" json:"public_addrs,omitempty"`
	Version       string    `yaml:"version,omitempty" json:"version,omitempty"`
	LastHeartbeat time.Time `yaml:"last_heartbeat,omitempty" json:"last_heartbeat,omitzero"`
	// Enforcer is what enforces there: EnforcerDaemon or EnforcerSSHD.
	Enforcer string `yaml:"enforcer,omitempty" json:"enforcer,omitempty"`
	// State is what it decides by, as it last said; nil where it has not.
	State *NodeState `yaml:"state,omitempty" json:"state,omitempty"`
}

// NodeState is a state that a node decides by.
type NodeState struct {
	// Sequence is the number of the last change in it.
	Sequence int64 `yaml:"sequence" json:"sequence"`
	// Confirmed is when the control plane last said to the node that this is
	// the state, Reported when the node said so.
	Confirmed time.Time `yaml:"confirmed" json:"confirmed"`
	Reported  time.Time `yaml:"reported" json:"reported"`
	// Behind: it is older than cluster_auth_preference's staleness limit.
	Behind bool `yaml:"behind,omitempty" json:"behind,omitempty"`
}

// CertAuthority is kind cert_authority, version v2: the public half.
type CertAuthority struct {
	Header `yaml:",inline"`
	Spec   CertAuthoritySpec `yaml:"spec" json:"spec"`
}

// CertAuthoritySpec: type is user, host or tls.
type CertAuthoritySpec struct {
	Type        string `yaml:"type" json:"type"`
	ClusterName string `yaml:"cluster_name" json:"cluster_name"`
	// PublicKeys: authorized_keys lines for user and host, PEM for tls.
	PublicKeys []string  `yaml:"public_keys" json:"public_keys"`
	CreateTime time.Time `yaml:"create_time,omitempty" json:"create_time,omitzero"`
}
