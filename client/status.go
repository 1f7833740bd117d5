package client

import (
	"maps"
	"slices"
	"time"

	"devicetrust/client/machine"
)

// Status is a login as it stands; its JSON is a promise (product.md).
type Status struct {
	ProfileURL     string       `json:"profile_url"`
	Username       string       `json:"username"`
	Cluster        string       `json:"cluster"`
	Roles          []string     `json:"roles"`
	Logins         []string     `json:"logins"`
	ValidUntil     time.Time    `json:"valid_until"`
	Extensions     []string     `json:"extensions"`
	SSHCertificate string       `json:"ssh_certificate"` // path
	Key            KeyStatus    `json:"key"`
	Device         DeviceStatus `json:"device"`
}

// KeyStatus says where the private SSH key is.
type KeyStatus struct {
	Kind string `json:"kind"` // software or tpm
	Path string `json:"path"` // empty where it is in the TPM
}

// keyStatus of p's login.
func (p *Profile) keyStatus(c Credentials) KeyStatus {
	if c.InTPM() {
		return KeyStatus{Kind: "tpm"}
	}
	return KeyStatus{Kind: "software", Path: p.keyPath(p.User)}
}

// DeviceStatus says whether the login is of a trusted device; where it is
// not, Reason says why.
type DeviceStatus struct {
	Trusted      bool   `json:"trusted"`
	ID           string `json:"id"`
	AssetTag     string `json:"asset_tag"`
	CredentialID string `json:"credential_id"`
	OS           string `json:"os"`
	Attestation  string `json:"attestation"`
	// EvidenceLevel is what the certificate says that the device proved: key,
	// quote, event_log, secure_boot; empty is nothing.
	EvidenceLevel string `json:"evidence_level"`
	Reason        string `json:"reason"`
}

// Status tells how the person is logged in with p. The login may have
// expired: compare ValidUntil.
func (p *Profile) Status() (Status, error) {
	creds, err := p.Credentials()
	if err != nil {
		return Status{}, err
	}
	id := creds.Identity
	s := Status{
		ProfileURL:     p.Proxy,
		Username:       p.User,
		Cluster:        p.Cluster,
		Roles:          append([]string{}, id.Roles...),
		Logins:         append([]string{}, id.Logins...),
		ValidUntil:     creds.ValidUntil().UTC(),
		Extensions:     slices.Sorted(maps.Keys(creds.SSH.Extensions)),
		SSHCertificate: p.keyPath(p.User + certificateSuffix),
		Key:            p.keyStatus(creds),
		Device:         DeviceStatus{OS: machine.OSType(), Reason: p.Device.Reason},
	}
	if d := id.Device; d.Trusted() {
		s.Device.Trusted, s.Device.Reason = true, ""
		s.Device.ID, s.Device.AssetTag, s.Device.CredentialID = d.ID, d.AssetTag, d.CredentialID
		s.Device.EvidenceLevel = id.Evidence.Level
		s.Device.Attestation = p.attestationOf(d.ID)
	}
	return s, nil
}
