package resource

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"devicetrust/identity"
	"devicetrust/policy"
)

// What the preference may say until there is more than one answer.
const (
	typeLocal       = "local"
	secondFactorOff = "off"
)

func (p *Preference) check() error {
	s := &p.Spec
	if s.Type == "" {
		s.Type = typeLocal
	}
	if s.SecondFactor == "" {
		s.SecondFactor = secondFactorOff
	}
	if s.Type != typeLocal {
		return fieldError("spec.type", "%.64q is not supported; it can only be %s", s.Type, typeLocal)
	}
	if s.SecondFactor != secondFactorOff {
		return fieldError("spec.second_factor", "%.64q is not supported; it can only be %s", s.SecondFactor, secondFactorOff)
	}
	if err := policy.CheckMode(s.DeviceTrust.Mode); err != nil {
		return fieldError("spec.device_trust.mode", "%v", err)
	}
	if err := policy.CheckLockingMode(s.LockingMode); err != nil {
		return fieldError("spec.locking_mode", "%v", err)
	}
	if err := policy.CheckStalenessLimit(s.StalenessLimit); err != nil {
		return fieldError("spec.staleness_limit", "%v", err)
	}
	if err := checkPCRs(s.DeviceTrust); err != nil {
		return err
	}
	return checkAllowedCAs("spec.device_trust.ekcert_allowed_cas", s.DeviceTrust.EKCertAllowedCAs)
}

// checkPCRs refuses what would compare nothing: a TPM has PCRs 0 to 23.
func checkPCRs(t policy.DeviceTrust) error {
	switch t.PCRPolicy {
	case policy.PCRPolicyUnset, policy.PCRPolicyOff, policy.PCRPolicyWarn, policy.PCRPolicyEnforce:
	default:
		return fieldError("spec.device_trust.pcr_policy", "%.64q is not one of off, warn, enforce", string(t.PCRPolicy))
	}
	for i, n := range t.PCRs {
		at := fmt.Sprintf("spec.device_trust.pcrs[%d]", i)
		if n < 0 || n > 23 {
			return fieldError(at, "%d is not a PCR: want 0 to 23", n)
		}
		if slices.Contains(t.PCRs[:i], n) {
			return fieldError(at, "PCR %d is there twice", n)
		}
	}
	return nil
}

func checkAllowedCAs(at string, cas []string) error {
	if len(cas) > maxAllowedCAs {
		return fieldError(at, "%d certificates are more than %d", len(cas), maxAllowedCAs)
	}
	for i, text := range cas {
		if err := checkAllowedCA(text); err != nil {
			return fieldError(fmt.Sprintf("%s[%d]", at, i), "entry %d: %v", i+1, err)
		}
	}
	return nil
}

// checkAllowedCA refuses what would never verify anything: an administrator
// who pastes a leaf certificate would lock every TPM out, one who pastes two
// in one entry would see the second ignored.
func checkAllowedCA(text string) error {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("it is not a certificate in PEM (-----BEGIN CERTIFICATE-----)")
	}
	if strings.TrimSpace(string(rest)) != "" {
		return errors.New("something follows after the certificate; each entry is one")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return errors.New("the certificate in it cannot be read")
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return errors.New("the certificate is not one of a certificate authority")
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the certificate authority in it may not sign certificates (its key usage has no keyCertSign)")
	}
	return nil
}

func (l *Lock) check() error {
	t := &l.Spec.Target
	if t.Empty() {
		return fieldError("spec.target", "it names nobody; set user, role, login, device or node")
	}
	if err := checkLine("spec.target", t.User, t.Role, t.Login, t.Device, t.Node); err != nil {
		return err
	}
	return checkLine("spec.message", l.Spec.Message, l.Spec.CreatedBy)
}

func (d *Device) check() error {
	s := &d.Spec
	if !slices.Contains([]string{"linux", "macos", "windows"}, s.OSType) {
		return fieldError("spec.os_type", "%.64q is not one of linux, macos, windows", s.OSType)
	}
	if s.AssetTag == "" || len(s.AssetTag) > maxName || strings.ContainsAny(s.AssetTag, "\n\t ") {
		return fieldError("spec.asset_tag", "%.64q is not an asset tag: want one word, as dtsh device asset-tag prints it on the machine", s.AssetTag)
	}
	switch s.EnrollStatus {
	case "", Enrolled, NotEnrolled:
	default:
		return fieldError("spec.enroll_status", "%.64q is neither %s nor %s", s.EnrollStatus, Enrolled, NotEnrolled)
	}
	if s.Owner == "" {
		return nil
	}
	return wrap("spec.owner", identity.CheckUser(s.Owner))
}
