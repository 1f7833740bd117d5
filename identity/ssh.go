package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"
)

// Extensions and critical options of a user certificate. The permit-* names,
// no-touch-required and the options are OpenSSH's (PROTOCOL.certkeys), the names with an @ are
// our own in the form that it asks of such; the others are those that users of
// Teleport's certificates know.
const (
	extPTY             = "permit-pty"
	extPortForwarding  = "permit-port-forwarding"
	extAgentForwarding = "permit-agent-forwarding"
	extX11Forwarding   = "permit-X11-forwarding"
	extNoTouch         = "no-touch-required"
	extLoginIP         = "login-ip"
	extKeyPolicy       = "private-key-policy"
	extRoles           = "teleport-roles"
	extTraits          = "teleport-traits"
	extDeviceID        = "teleport-device-id"
	extDeviceAssetTag  = "teleport-device-asset-tag"
	extDeviceCredID    = "teleport-device-credential-id"
	extDeviceEvidence  = "device-evidence@devicetrust"
	extKeyAttestation  = "key-attestation@devicetrust"

	optSourceAddress = "source-address"
	optForceCommand  = "force-command"
)

// rolesVersion is the only form of teleport-roles that there is.
const rolesVersion = "v1"

type rolesJSON struct {
	Version string   `json:"version"`
	Roles   []string `json:"roles"`
}

// evidenceVersion is the only form of device-evidence that there is.
const evidenceVersion = "v1"

type evidenceJSON struct {
	Version         string `json:"version"`
	Level           string `json:"level"`
	TPMManufacturer string `json:"tpm_manufacturer,omitempty"`
	TPMFirmware     string `json:"tpm_firmware,omitempty"`
}

// SSHCertificate encodes id for key: a user certificate that is complete but
// for SignatureKey, Nonce and Signature. It refuses an identity that cannot
// be written without loss, and a key that may not be certified. Times are cut
// to whole seconds; a trait without values is left out; an identity without
// logins gets NoLogin. Cluster is not written.
func (id Identity) SSHCertificate(key ssh.PublicKey) (*ssh.Certificate, error) {
	if err := CheckSSHKey(key); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if err := id.checkWritable(); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	extensions, err := id.sshExtensions()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	options, err := id.sshOptions()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	principals := id.Logins
	if len(principals) == 0 {
		principals = []string{NoLogin}
	}
	return &ssh.Certificate{
		Key:             key,
		Serial:          id.Serial,
		CertType:        ssh.UserCert,
		KeyId:           id.User,
		ValidPrincipals: principals,
		ValidAfter:      uint64(id.ValidAfter.Unix()),
		ValidBefore:     uint64(id.ValidBefore.Unix()),
		Permissions:     ssh.Permissions{CriticalOptions: options, Extensions: extensions},
	}, nil
}

func (id Identity) sshExtensions() (map[string]string, error) {
	ext := make(map[string]string)
	for name, set := range id.Permit.flags() {
		if *set {
			ext[name] = ""
		}
	}
	if id.LoginIP.IsValid() {
		ext[extLoginIP] = plainAddr(id.LoginIP).String()
	}
	if id.PrivateKeyPolicy != "" {
		ext[extKeyPolicy] = id.PrivateKeyPolicy
	}
	if id.Device.Trusted() {
		ext[extDeviceID] = id.Device.ID
		ext[extDeviceAssetTag] = id.Device.AssetTag
		ext[extDeviceCredID] = id.Device.CredentialID
	}
	if e := id.Evidence; e != (Evidence{}) {
		if err := putJSON(ext, extDeviceEvidence, evidenceJSON{evidenceVersion, e.Level, e.TPMManufacturer, e.TPMFirmware}); err != nil {
			return nil, err
		}
	}
	if id.KeyAttestation != "" {
		ext[extKeyAttestation] = id.KeyAttestation
	}
	if len(id.Roles) > 0 {
		if err := putJSON(ext, extRoles, rolesJSON{Version: rolesVersion, Roles: id.Roles}); err != nil {
			return nil, err
		}
	}
	if traits := withValues(id.Traits); len(traits) > 0 {
		if err := putJSON(ext, extTraits, traits); err != nil {
			return nil, err
		}
	}
	return ext, nil
}

// sshOptions: source-address holds one address as a CIDR block, the form that
// every OpenSSH reads.
func (id Identity) sshOptions() (map[string]string, error) {
	options := map[string]string{}
	if id.ForceCommand != "" {
		options[optForceCommand] = id.ForceCommand
	}
	if id.PinSourceIP {
		if !id.LoginIP.IsValid() {
			return nil, errors.New("the source address is to be pinned and is not known")
		}
		options[optSourceAddress] = onlyAddr(id.LoginIP)
	}
	if len(options) == 0 {
		return nil, nil
	}
	return options, nil
}

func putJSON(ext map[string]string, name string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(b) > maxJSON {
		return fmt.Errorf("%s has %d bytes, more than %d", name, len(b), maxJSON)
	}
	ext[name] = string(b)
	return nil
}

func withValues(traits map[string][]string) map[string][]string {
	out := make(map[string][]string, len(traits))
	for name, values := range traits {
		if len(values) > 0 {
			out[name] = values
		}
	}
	return out
}

// flags gives each permission by its extension.
func (p *Permit) flags() map[string]*bool {
	return map[string]*bool{
		extPTY:             &p.PTY,
		extPortForwarding:  &p.PortForwarding,
		extAgentForwarding: &p.AgentForwarding,
		extX11Forwarding:   &p.X11Forwarding,
	}
}

// plainAddr is a without a zone, which only means something on the machine
// that saw it, and as IPv4 where it is that.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func onlyAddr(a netip.Addr) string {
	a = plainAddr(a)
	return netip.PrefixFrom(a, a.BitLen()).String()
}

// unix reads a certificate's time; false where it is out of range, "for ever"
// (2^64-1) among that.
func unix(seconds uint64) (time.Time, bool) {
	if seconds == 0 || seconds > maxSeconds {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0).UTC(), true
}
