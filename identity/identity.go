// Package identity says who somebody is to us: a user, the roles and logins,
// the device that was proved, and how long it holds. It owns the one encoding
// of that in SSH and in X.509 certificates; nothing else reads or writes
// those fields.
package identity

import (
	"fmt"
	"net/netip"
	"time"
)

// Identity is what a user certificate says. The zero value is nobody: it has
// no login, no role and no device.
type Identity struct {
	// Cluster is carried by X.509 only; SSH certificates are bound to the
	// cluster by the authority that signed them.
	Cluster string
	User    string
	Roles   []string
	// Logins are the principals: every login that the roles grant.
	Logins []string
	// Traits["logins"] fills {{internal.logins}} in roles.
	Traits map[string][]string
	// Device is set only by a device authentication ceremony.
	Device Device
	// Evidence is what that ceremony proved of the device; the zero value is
	// nothing, as is all of it without a device. X.509 certificates do not
	// carry it.
	Evidence Evidence
	Permit   Permit
	// LoginIP is where the login came from; informational.
	LoginIP netip.Addr
	// PinSourceIP makes LoginIP the only source address (critical option
	// source-address, OpenSSH PROTOCOL.certkeys).
	PinSourceIP bool
	// ForceCommand, where it is not empty, is the only command that sessions
	// of the certificate run (critical option force-command). Our CA writes
	// none; X.509 certificates do not carry it.
	ForceCommand string
	// PrivateKeyPolicy is "none", or "hardware_key" where the key is known
	// to be in the TPM.
	PrivateKeyPolicy string
	// KeyAttestation is hex of the SHA-256 of the proof that the SSH key is in
	// the device's TPM; it is there with hardware_key and a device, and with
	// nothing else. X.509 certificates do not carry it.
	KeyAttestation string
	Serial         uint64
	ValidAfter     time.Time
	ValidBefore    time.Time
}

// Permit is what a session of the certificate may ask for.
type Permit struct {
	PTY, PortForwarding, AgentForwarding, X11Forwarding bool
}

// Device is the device in a certificate.
type Device struct {
	ID, AssetTag, CredentialID string
}

// Evidence is what a device proved of itself beyond being itself. Policy says
// what the words mean.
type Evidence struct {
	// Level is key, quote, event_log or secure_boot.
	Level string
	// TPMManufacturer is a vendor ID of the TCG's registry, TPMFirmware a
	// dotted version; empty where nobody vouches for them.
	TPMManufacturer, TPMFirmware string
}

// Trusted tells whether d is a device: all three fields present. Fewer count
// as none.
func (d Device) Trusted() bool {
	return d.ID != "" && d.AssetTag != "" && d.CredentialID != ""
}

// KeyAttested tells whether the SSH key is proved to be in the TPM of the
// device. Less than all that says so counts as nothing.
func (id Identity) KeyAttested() bool {
	return id.PrivateKeyPolicy == KeyPolicyHardware && id.KeyAttestation != "" && id.Device.Trusted()
}

// NoLogin is the principal of a certificate that grants no login: an SSH
// certificate without principals would be good for every one
// (x/crypto/ssh CheckCert), and this one can be nobody's account.
const NoLogin = "-dt-nologin-"

// CheckLogin refuses what cannot be a login on a server: anything but
// [a-z_][a-z0-9._-]{0,31}. The CA, the node and the sshd helper all ask here.
func CheckLogin(login string) error {
	if !isName(login, lower+"_", lower+digits+"._-", maxLogin) {
		return fmt.Errorf("login %.64q is not of the form [a-z_][a-z0-9._-]{0,31}", login)
	}
	return nil
}

// CheckUser refuses what cannot be a user's name: it must start with a letter,
// a digit or "_", go on with those or "._@+-", and have at most 128 bytes.
func CheckUser(name string) error {
	if !isName(name, lower+upper+digits+"_", lower+upper+digits+"._@+-", maxUser) {
		return fmt.Errorf("user name %.160q must be 1 to 128 of a-z A-Z 0-9 . _ @ + - and start with a letter, a digit or _", name)
	}
	return nil
}
