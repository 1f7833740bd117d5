package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Private key policies: whether the certified key is known to be in hardware.
const (
	KeyPolicyNone     = "none"
	KeyPolicyHardware = "hardware_key"
)

// Names are looked at a byte at a time: programs that run once for each question
// would spend more time on making regular expressions ready than on all else.
const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// isName tells whether s is one of first and then any of rest, which are ASCII,
// and has at most most bytes.
func isName(s, first, rest string, most int) bool {
	return s != "" && len(s) <= most && strings.IndexByte(first, s[0]) >= 0 && strings.Trim(s[1:], rest) == ""
}

// CheckCluster refuses what cannot name a cluster. It is the host part of a
// URI, so it has the form of a host name in lower case (RFC 1123 section 2.1).
func CheckCluster(name string) error {
	if len(name) > maxHostName || !isHost(name) {
		return fmt.Errorf("cluster name %.160q must be a host name in lower case: letters, digits, - and .", name)
	}
	return nil
}

func isHost(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if !isName(label, lower+digits, lower+digits+"-", maxHostLabel) || strings.HasSuffix(label, "-") {
			return false
		}
	}
	return true
}

// check refuses an identity that no certificate may carry: both encodings ask
// here before writing and after reading.
func (id Identity) check() error {
	if err := CheckUser(id.User); err != nil {
		return err
	}
	if id.Serial == 0 {
		// 0 stands for "no certificate" in decisions and could not be revoked.
		return errors.New("the serial is 0")
	}
	if err := checkSpan(id.ValidAfter, id.ValidBefore); err != nil {
		return err
	}
	if err := CheckRoles(id.Roles); err != nil {
		return err
	}
	return checkLogins(id.Logins)
}

// checkWritable refuses also what a reader would take for absent or could not
// read at all.
func (id Identity) checkWritable() error {
	if err := id.check(); err != nil {
		return err
	}
	if err := checkDevice(id.Device); err != nil {
		return err
	}
	if id.Evidence != (Evidence{}) {
		if !id.Device.Trusted() {
			return errors.New("there is evidence of no device")
		}
		if err := CheckEvidence(id.Evidence); err != nil {
			return err
		}
	}
	if err := CheckTraits(id.Traits); err != nil {
		return err
	}
	if err := checkCommand(id.ForceCommand); err != nil {
		return err
	}
	if err := checkKeyPolicy(id.PrivateKeyPolicy); err != nil {
		return err
	}
	isHardware := id.PrivateKeyPolicy == KeyPolicyHardware
	if isHardware != (id.KeyAttestation != "") || isHardware && !id.Device.Trusted() {
		return errors.New("a key in hardware goes with its attestation and its device")
	}
	if isHardware {
		return checkKeyAttestation(id.KeyAttestation)
	}
	return nil
}

// checkKeyAttestation wants the hex of a SHA-256.
func checkKeyAttestation(digest string) error {
	if len(digest) != hex.EncodedLen(sha256.Size) || strings.Trim(digest, digits+"abcdef") != "" {
		return fmt.Errorf("key attestation %.80q is not the hex of a SHA-256", digest)
	}
	return nil
}

// checkCommand: a shell could not be given a zero byte.
func checkCommand(command string) error {
	if len(command) > maxCommand || strings.Contains(command, "\x00") {
		return fmt.Errorf("command of %d bytes, more than %d, or with a zero byte: %.64q", len(command), maxCommand, command)
	}
	return nil
}

func checkLogins(logins []string) error {
	if len(logins) > MaxLogins {
		return fmt.Errorf("%d logins are more than %d", len(logins), MaxLogins)
	}
	for i, l := range logins {
		if err := CheckLogin(l); err != nil {
			return err
		}
		if slices.Contains(logins[:i], l) {
			return fmt.Errorf("login %q is there twice", l)
		}
	}
	return nil
}

// CheckRoles refuses names of roles that no certificate may carry: too many,
// one twice, empty or unprintable ones.
func CheckRoles(roles []string) error { return checkList("role", roles, MaxRoles, maxRoleName) }

// CheckTraits refuses traits that no certificate may carry: too many or too
// long for an extension, a value twice, empty or unprintable ones, and logins
// that are none.
func CheckTraits(traits map[string][]string) error {
	if len(traits) > maxTraits {
		return fmt.Errorf("%d traits are more than %d", len(traits), maxTraits)
	}
	for name, values := range traits {
		if err := checkText("trait", name, maxRoleName); err != nil {
			return err
		}
		if err := checkList("value of trait "+strconv.Quote(name), values, maxTraitValues, maxTraitText); err != nil {
			return err
		}
	}
	if b, err := json.Marshal(traits); err != nil || len(b) > maxJSON {
		return fmt.Errorf("the traits have %d bytes in all, more than %d", len(b), maxJSON)
	}
	return checkLogins(traits["logins"])
}

func checkKeyPolicy(policy string) error {
	switch policy {
	case "", KeyPolicyNone, KeyPolicyHardware:
		return nil
	}
	return fmt.Errorf("private key policy %.64q is unknown", policy)
}

// checkDevice refuses half a device; none at all is fine.
func checkDevice(d Device) error {
	if d == (Device{}) {
		return nil
	}
	for _, f := range []string{d.ID, d.AssetTag, d.CredentialID} {
		if err := checkText("field of the device", f, maxDeviceField); err != nil {
			return err
		}
	}
	return nil
}

// A level is a word, whichever ones policy knows. A vendor ID has four bytes of
// ASCII at most (TCG TPM Vendor ID Registry), or eight digits where they are no
// text (TCG EK Credential Profile, section 3.1.2); the version of a TPM's
// firmware is 64 bits (firmwareVersion of TPMS_ATTEST, TPM 2.0 Part 2), so
// people write it as at most four numbers.
var (
	vendorPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([!-~]{1,4}|id:[0-9A-F]{8})?$`)
	})
	firmwarePattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([0-9]{1,10}(\.[0-9]{1,10}){0,3})?$`)
	})
)

// CheckEvidence refuses evidence that no certificate may carry: a level that is
// no word of a-z and _, a vendor ID or firmware of another form. Those two may
// be empty, and a level may not. Whoever collects evidence leaves out what does
// not pass.
func CheckEvidence(e Evidence) error {
	switch {
	case !isName(e.Level, lower+"_", lower+"_", maxLevel):
		return fmt.Errorf("evidence level %.64q is not one word", e.Level)
	case !vendorPattern().MatchString(e.TPMManufacturer):
		return fmt.Errorf("TPM manufacturer %.64q is not a vendor ID", e.TPMManufacturer)
	case !firmwarePattern().MatchString(e.TPMFirmware):
		return fmt.Errorf("TPM firmware %.64q is not up to four numbers with dots", e.TPMFirmware)
	}
	return nil
}

// deviceOf is d, or none where d is not whole and well formed.
func deviceOf(d Device) Device {
	if checkDevice(d) != nil {
		return Device{}
	}
	return d
}

// checkSpan: whole seconds are all that certificates can say.
func checkSpan(after, before time.Time) error {
	a, b := after.Unix(), before.Unix()
	switch {
	case a <= 0 || b > maxSeconds:
		return errors.New("the time of validity is out of range")
	case a >= b:
		return errors.New("the time of validity is empty")
	}
	return nil
}

func checkList(what string, list []string, most, longest int) error {
	if len(list) > most {
		return fmt.Errorf("there are more than %d of: %s", most, what)
	}
	for i, s := range list {
		if err := checkText(what, s, longest); err != nil {
			return err
		}
		if slices.Contains(list[:i], s) {
			return fmt.Errorf("%s %.64q is there twice", what, s)
		}
	}
	return nil
}

func checkText(what, s string, longest int) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(s) > longest:
		return fmt.Errorf("%s %.64q… has more than %d bytes", what, s, longest)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }):
		return fmt.Errorf("%s %.64q holds what cannot be printed", what, s)
	}
	return nil
}
