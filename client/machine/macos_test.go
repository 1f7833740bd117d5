package machine

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestTheSerialNumberOfAMacIsFound(t *testing.T) {
	const head = `+-o Example1,1  <class IOPlatformExpertDevice, id 0x100000001, registered, matched, active, busy 0 (99 ms), retain 40>
    {
      "IOPolledInterface" = "AppleARMWatchdogTimerHibernateHandler is not serializable"
      "manufacturer" = <"Example">
`
	for _, test := range []struct{ name, text, want string }{
		{"as it is printed", head + "      \"IOPlatformSerialNumber\" = \"C00AA0AAAA0A\"\n      \"target-type\" = <\"X\">\n    }\n", "C00AA0AAAA0A"},
		{"the first of two", "\"IOPlatformSerialNumber\" = \"ONE\"\n\"IOPlatformSerialNumber\" = \"TWO\"\n", "ONE"},
		{"as data", head + `"IOPlatformSerialNumber" = <00ff>`, ""},
		{"without its beginning", head + `"IOPlatformSerialNumber" = C00AA0AAAA0A"`, ""},
		{"without its last quote", head + `"IOPlatformSerialNumber" = "C00AA0AAAA0A`, ""},
		{"without its end", head + `"IOPlatformSerialNumber" = "`, ""},
		{"within another value", head + `"note" = ""IOPlatformSerialNumber" = "X""`, ""},
		{"not there", head, ""},
		{"too long", `"IOPlatformSerialNumber" = "` + strings.Repeat("x", maxField+1) + `"`, ""},
		{"nothing", "", ""},
	} {
		if got := serialNumber([]byte(test.text)); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestWhatManagesAMacIsALineEach(t *testing.T) {
	for text, want := range map[string]string{
		"version=11.4.1-t1712591696\n": "11.4.1-t1712591696",
		"command not found\n":          "",
		"":                             "",
	} {
		if got := jamfVersion([]byte(text)); got != want {
			t.Errorf("jamf %q: %q, want %q", text, got, want)
		}
	}
	const status = "Enrolled via DEP: No\nMDM enrollment: Yes (User Approved)\n\nMDM server: https://mdm.example.com/\n"
	if got, want := enrollmentProfiles([]byte(status)), "Enrolled via DEP: No; MDM enrollment: Yes (User Approved); MDM server: https://mdm.example.com/"; got != want {
		t.Errorf("profiles: %q, want %q", got, want)
	}
	if got := enrollmentProfiles([]byte(strings.Repeat("a line\n", 1000))); got != "" {
		t.Errorf("profiles without end: %q", got)
	}
}

func FuzzWhatAMacPrints(f *testing.F) {
	f.Add([]byte(`"IOPlatformSerialNumber" = "C00AA0AAAA0A"`))
	f.Add([]byte("version=1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, got := range []string{serialNumber(text), jamfVersion(text), enrollmentProfiles(text)} {
			if field(got) != got {
				t.Errorf("%q cannot be sent", got)
			}
		}
	})
}

func TestAProgramOfTheSystemIsBounded(t *testing.T) {
	if got, err := output(t.Context(), "/bin/sh", "-c", `echo "$HOME" "$LC_ALL"`); err != nil || string(got) != " C\n" {
		t.Errorf("it prints %q, %v", got, err)
	}
	if got, err := output(t.Context(), "/bin/sh", "-c", "echo half; exit 3"); err == nil {
		t.Errorf("one that fails says %q", got)
	}
	if got, err := output(t.Context(), "/nonexistent/ioreg"); err == nil {
		t.Errorf("one that is not there says %q", got)
	}
	if got, err := output(t.Context(), "/bin/sh", "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an endless one says %d bytes, %v", len(got), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	if _, err := output(ctx, "/bin/sh", "-c", "exec sleep 60"); err == nil || time.Since(begin) > commandTimeout {
		t.Errorf("nobody waits, and it goes on for %v: %v", time.Since(begin), err)
	}
	// One that is left behind holds the pipe.
	begin = time.Now()
	if _, err := output(t.Context(), "/bin/sh", "-c", "sleep 20 & echo done"); err == nil || time.Since(begin) > commandTimeout {
		t.Errorf("what it left behind is waited for, for %v: %v", time.Since(begin), err)
	}
}
