package assettag_test

import (
	"strings"
	"testing"

	"devicetrust/devices/assettag"
)

func TestLabelsThatNameNoMachineAreRefused(t *testing.T) {
	for _, tag := range []string{
		"", " ", "0", "7", "00000000", "None", "none", "NONE", "N/A", "Default string", "Default_string",
		"To Be Filled By O.E.M.", "To-Be-Filled-By-O.E.M.", "ToBeFilledByO.E.M.", "O.E.M.",
		"System Serial Number", "SystemSerialNumber", "Not Specified", "NotSpecified", "Unknown",
		"xxxxxxx", "...", "-", "/////", "1234567890", "0123456789", "Asset-1234567890",
		"00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
		"03000200-0400-0500-0006-000700080009",
		"VMware-56 4d 2a 11", "a b", "tab\tbed", "line\nfeed", "zero\x00", "Größe", "a\u202eb",
		"$(reboot)", "`id`", "a;b", "a'b", `a"b`, `a\b`, "a|b", "a&b", "a,b", "a=b", "<b>",
		strings.Repeat("A1", 33),
		"TPM-", "TPM-12", "TPM-0123456789AB", "TPM-0123456789abc", "TPM-0123456789ag",
	} {
		if assettag.Valid(tag) == nil {
			t.Errorf("%q was taken for the tag of a machine", tag)
		}
	}
}

func TestSerialNumbersAreTags(t *testing.T) {
	for _, tag := range []string{
		"C00AA0AAAA0A", "PF2ABCDE", "5CG1234XYZ", "/5XJ9Q33/CNWS2009870123/", "GoogleCloud-1A2B3C",
		"ec2a1b2c-3d4e-5f60-7182-93a4b5c6d7e8", "MXL_1234.5:6+7", "TPM-0123456789ab", "tpm-1",
		strings.Repeat("A1", 32),
	} {
		if err := assettag.Valid(tag); err != nil {
			t.Errorf("%q: %v", tag, err)
		}
	}
}

func TestTheErrorNamesTheTagAndTheReason(t *testing.T) {
	for tag, reason := range map[string]string{
		"":                       "empty",
		"Default-string":         `"Default-string" is a placeholder`,
		"a b":                    `' '`,
		"TPM-xyz":                "12 hex digits",
		strings.Repeat("A1", 40): "80 bytes",
	} {
		if err := assettag.Valid(tag); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: got %v, want %q in it", tag, err, reason)
		}
	}
}

func TestPickTakesTheFirstThatNamesAMachine(t *testing.T) {
	for _, test := range []struct {
		candidates []string
		want       string
	}{
		{nil, ""},
		{[]string{"", "Default string", "0"}, ""},
		{[]string{"None", "  PF2ABCDE\n", "C00AA0AAAA0A"}, "PF2ABCDE"},
	} {
		got, ok := assettag.Pick(test.candidates...)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("Pick(%q) = %q, %t, want %q", test.candidates, got, ok, test.want)
		}
	}
}

func TestTheTagOfAnEndorsementKeyIsItsDigest(t *testing.T) {
	// printf abc | sha256sum
	const want = "TPM-ba7816bf8f01"
	got := assettag.FromEK([]byte("abc"))
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := assettag.Valid(got); err != nil {
		t.Error(err)
	}
	if !assettag.IsFromEK(got) || assettag.IsFromEK("C00AA0AAAA0A") {
		t.Error("tags of endorsement keys are not told from others")
	}
}

func FuzzValidTagsNeedNoQuoting(f *testing.F) {
	f.Add("C00AA0AAAA0A")
	f.Add("TPM-0123456789ab")
	f.Add("")
	f.Fuzz(func(t *testing.T, tag string) {
		if assettag.Valid(tag) == nil && (tag == "" || len(tag) > assettag.MaxLen || strings.ContainsAny(tag, " \t\n\r\"'`$\\;&|<>(){}[]*?!~#%^=,")) {
			t.Errorf("%q is valid", tag)
		}
	})
}
