package identity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/ssh"
)

// UnverifiedFromSSH reads the fields of a user certificate. It checks their
// form only: whether the certificate is to be believed, SSHCheck tells. Errors
// are *Refused with ReasonMalformed or ReasonCriticalOption. Extensions that
// are not ours are ignored, as PROTOCOL.certkeys asks.
func UnverifiedFromSSH(cert *ssh.Certificate) (Identity, error) {
	id := Identity{User: cert.KeyId, Serial: cert.Serial}
	for _, read := range []func(*ssh.Certificate) *Refused{
		id.readLife, id.readPrincipals, id.readFlags, id.readTexts, id.readRoles, id.readTraits, id.readOptions,
	} {
		if err := read(cert); err != nil {
			return Identity{}, err
		}
	}
	if err := id.check(); err != nil {
		return Identity{}, malformed(err)
	}
	return id, nil
}

func malformed(err error) *Refused { return refuse(ReasonMalformed, "%v", err) }

func (id *Identity) readLife(cert *ssh.Certificate) *Refused {
	var ok, ok2 bool
	id.ValidAfter, ok = unix(cert.ValidAfter)
	id.ValidBefore, ok2 = unix(cert.ValidBefore)
	if !ok || !ok2 {
		return refuse(ReasonMalformed, "it has no bounded time of validity")
	}
	return nil
}

// readPrincipals: an empty list would be good for every login (x/crypto/ssh
// CheckCert), so it is never read as "none".
func (id *Identity) readPrincipals(cert *ssh.Certificate) *Refused {
	switch p := cert.ValidPrincipals; {
	case len(p) == 0:
		return refuse(ReasonMalformed, "it names no principal")
	case len(p) == 1 && p[0] == NoLogin:
	default:
		id.Logins = p // id.check looks at each
	}
	return nil
}

func (id *Identity) readFlags(cert *ssh.Certificate) *Refused {
	for name, flag := range id.Permit.flags() {
		value, ok := cert.Extensions[name]
		if value != "" {
			return refuse(ReasonMalformed, "extension %s has a value", name)
		}
		*flag = ok
	}
	return nil
}

func (id *Identity) readTexts(cert *ssh.Certificate) *Refused {
	if s, ok := cert.Extensions[extLoginIP]; ok {
		addr, err := netip.ParseAddr(s)
		if err != nil || plainAddr(addr).String() != s {
			return refuse(ReasonMalformed, "extension %s is not an address: %.64q", extLoginIP, s)
		}
		id.LoginIP = addr
	}
	if s, ok := cert.Extensions[extKeyPolicy]; ok {
		if err := checkKeyPolicy(s); err != nil || s == "" {
			return refuse(ReasonMalformed, "extension %s is unknown: %.64q", extKeyPolicy, s)
		}
		id.PrivateKeyPolicy = s
	}
	id.Device = deviceOf(Device{
		ID:           cert.Extensions[extDeviceID],
		AssetTag:     cert.Extensions[extDeviceAssetTag],
		CredentialID: cert.Extensions[extDeviceCredID],
	})
	if id.Device.Trusted() {
		id.Evidence = evidenceOf(cert.Extensions[extDeviceEvidence])
	}
	id.readAttestation(cert.Extensions[extKeyAttestation])
	return nil
}

// readAttestation: as with evidence, what cannot be read is none, and half of
// what says that the key is in the TPM says nothing.
func (id *Identity) readAttestation(text string) {
	if checkKeyAttestation(text) == nil {
		id.KeyAttestation = text
	}
	if id.KeyAttested() {
		return
	}
	id.KeyAttestation = ""
	if id.PrivateKeyPolicy == KeyPolicyHardware {
		id.PrivateKeyPolicy = KeyPolicyNone
	}
}

// evidenceOf reads device-evidence. What it cannot read is no evidence, as half
// a device is none, and no reason to refuse the certificate: whoever asks for
// evidence refuses, and the others would be kept out by a form that they have
// no need of.
func evidenceOf(text string) Evidence {
	var e evidenceJSON
	if strictJSON(text, &e) != nil || e.Version != evidenceVersion {
		return Evidence{}
	}
	read := Evidence{Level: e.Level, TPMManufacturer: e.TPMManufacturer, TPMFirmware: e.TPMFirmware}
	if CheckEvidence(read) != nil {
		return Evidence{}
	}
	return read
}

func (id *Identity) readRoles(cert *ssh.Certificate) *Refused {
	text, ok := cert.Extensions[extRoles]
	if !ok {
		return nil
	}
	var r rolesJSON
	if err := strictJSON(text, &r); err != nil {
		return refuse(ReasonMalformed, "extension %s: %v", extRoles, err)
	}
	if r.Version != rolesVersion || len(r.Roles) == 0 {
		return refuse(ReasonMalformed, "extension %s: want version %q and roles, got %.64q", extRoles, rolesVersion, text)
	}
	id.Roles = r.Roles // id.check looks at each
	return nil
}

func (id *Identity) readTraits(cert *ssh.Certificate) *Refused {
	text, ok := cert.Extensions[extTraits]
	if !ok {
		return nil
	}
	var t map[string][]string
	if err := strictJSON(text, &t); err != nil {
		return refuse(ReasonMalformed, "extension %s: %v", extTraits, err)
	}
	if len(t) == 0 || len(withValues(t)) != len(t) {
		return refuse(ReasonMalformed, "extension %s: a trait has no values", extTraits)
	}
	if err := CheckTraits(t); err != nil {
		return malformed(err)
	}
	id.Traits = t
	return nil
}

// readOptions: a critical option that is not understood refuses
// (PROTOCOL.certkeys); source-address is understood only with the address of
// the login.
func (id *Identity) readOptions(cert *ssh.Certificate) *Refused {
	for name, value := range cert.CriticalOptions {
		switch name {
		case optForceCommand:
			if err := checkCommand(value); err != nil || value == "" {
				return refuse(ReasonCriticalOption, "critical option %s is not a command: %.64q", name, value)
			}
			id.ForceCommand = value
		case optSourceAddress:
			if !id.LoginIP.IsValid() || value != onlyAddr(id.LoginIP) {
				return refuse(ReasonCriticalOption, "critical option %s is not the address of the login: %.64q", name, value)
			}
			id.PinSourceIP = true
		default:
			return refuse(ReasonCriticalOption, "critical option %.64q is not supported", name)
		}
	}
	return nil
}

// strictJSON accepts only the bytes that we would write for the value: so
// duplicated and unknown keys, keys in other case, white space and trailing
// data are refused, all of which encoding/json would pass over.
func strictJSON(text string, into any) error {
	if len(text) > maxJSON {
		return fmt.Errorf("%d bytes are more than %d", len(text), maxJSON)
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("not the JSON that is wanted: %.64q", text)
	}
	again, err := json.Marshal(into)
	if err != nil || !bytes.Equal(again, []byte(text)) {
		return fmt.Errorf("not in its one form: %.64q", text)
	}
	return nil
}
