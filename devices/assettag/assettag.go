// Package assettag says which labels can name a machine. A tag is a label
// that the machine claims; the endorsement key is what identifies it. Firmware
// is full of labels that name nothing, and two machines that both claim
// "Default string" would be one device.
package assettag

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// MaxLen is twice the longest serial numbers that vendors print (SMBIOS sets
// no bound of its own).
const MaxLen = 64

// ekPrefix starts the tag of a machine that has no label of its own.
const (
	ekPrefix = "TPM-"
	ekDigits = 12
)

// FromEK is the tag of a machine without a usable label: "TPM-" and the first
// 12 hex digits of the SHA-256 of the endorsement key's public half (PKIX DER).
func FromEK(ekDER []byte) string {
	digest := sha256.Sum256(ekDER)
	return ekPrefix + hex.EncodeToString(digest[:])[:ekDigits]
}

// IsFromEK tells whether tag claims to be made by FromEK; a server that is
// shown such a tag computes it from the key.
func IsFromEK(tag string) bool { return strings.HasPrefix(tag, ekPrefix) }

// Pick gives the first candidate that is valid, without the white space that
// firmware leaves around it; ok is false where none is.
func Pick(candidates ...string) (tag string, ok bool) {
	for _, c := range candidates {
		if c = strings.TrimSpace(c); Valid(c) == nil {
			return c, true
		}
	}
	return "", false
}

// Valid refuses what cannot be a machine's tag: the empty, too long and
// placeholder labels of firmware, and every character that needs quoting
// somewhere, since tags are printed into tables, YAML and command lines. The
// error quotes the tag and says why.
func Valid(tag string) error {
	switch {
	case tag == "":
		return fmt.Errorf("the asset tag is empty")
	case len(tag) > MaxLen:
		return fmt.Errorf("asset tag %.32q… has %d bytes, at most %d can be", tag, len(tag), MaxLen)
	}
	for _, r := range tag {
		if !allowed(r) {
			return fmt.Errorf("asset tag %q has %q in it: only a-z A-Z 0-9 and - . _ : / + can be", tag, r)
		}
	}
	if IsFromEK(tag) {
		return validFromEK(tag)
	}
	if isPlaceholder(tag) {
		return fmt.Errorf("asset tag %q is a placeholder of the firmware, it names no machine", tag)
	}
	return nil
}

func allowed(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:/+", r)
}

func validFromEK(tag string) error {
	digits := strings.TrimPrefix(tag, ekPrefix)
	if len(digits) != ekDigits || strings.Trim(digits, "0123456789abcdef") != "" {
		return fmt.Errorf("asset tag %q is not %s and %d hex digits", tag, ekPrefix, ekDigits)
	}
	return nil
}

// isPlaceholder looks at the letters and digits alone, in lower case, so that
// "To-Be-Filled-By-O.E.M." and "TOBEFILLEDBYOEM" are the same.
func isPlaceholder(tag string) bool {
	bare := strings.Map(func(r rune) rune {
		if strings.ContainsRune("-._:/+", r) {
			return -1
		}
		return r
	}, strings.ToLower(tag))
	// "", "0", "xxxxxxx", "FFFFFFFF-FFFF-…": one character says nothing.
	if strings.Trim(bare, bare[:min(1, len(bare))]) == "" {
		return true
	}
	return placeholders[bare]
}

// placeholders as vendors ship them, without punctuation and in lower case.
var placeholders = map[string]bool{
	"default": true, "defaultstring": true, "tobefilledbyoem": true, "tobefilled": true, "oem": true,
	"none": true, "null": true, "nil": true, "na": true, "empty": true, "blank": true,
	"unknown": true, "unspecified": true, "undefined": true, "invalid": true,
	"notspecified": true, "notapplicable": true, "notavailable": true, "notset": true, "notdefined": true,
	"assettag": true, "noassettag": true, "noassetinformation": true, "asset1234567890": true,
	"serialnumber": true, "systemserialnumber": true, "chassisserialnumber": true,
	"baseboardserialnumber": true, "boardserialnumber": true, "serial": true,
	"123456": true, "1234567": true, "12345678": true, "123456789": true,
	"1234567890": true, "0123456789": true, "0123456789abcdef": true,
	// The system UUID of boards that were never given one.
	"03000200040005000006000700080009": true,
}
