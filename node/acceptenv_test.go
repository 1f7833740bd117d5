package node

import (
	"strings"
	"testing"
)

func TestVariablesAreTakenByPattern(t *testing.T) {
	a, err := parseAcceptEnv([]string{"LANG", "LC_*", "GIT_AUTHOR_*", "X?Z"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"LANG": true, "LC_ALL": true, "LC_x1": true, "GIT_AUTHOR_NAME": true, "XYZ": true,
		"XZ": false, "XYYZ": false, "LANGUAGE": false, "lang": false, "": false, "LC_A=B": false, "LC_A B": false,
	} {
		if got := a.takes(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
	if (acceptEnv{}).takes("LANG") || acceptEnv(nil).takes("LANG") {
		t.Error("no pattern takes something")
	}
}

func TestWhatChangesWhatRunsIsNeverTaken(t *testing.T) {
	all, err := parseAcceptEnv([]string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	if !all.takes("COLORTERM") {
		t.Error("* does not take COLORTERM")
	}
	for _, name := range []string{
		"LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "BASHOPTS", "ENV", "IFS", "PS4", "PATH", "SHELL", "HOME", "USER", "LOGNAME",
		"PYTHONPATH", "PERL5LIB", "PERL5OPT", "GCONV_PATH", "GIT_SSH_COMMAND", "SSH_ORIGINAL_COMMAND", "SSH_CONNECTION",
		"DT_USER", "TERM", "TERMINFO", "GLIBC_TUNABLES", "NODE_OPTIONS", "_JAVA_OPTIONS",
	} {
		if all.takes(name) {
			t.Errorf("* takes %s", name)
		}
		if _, err := parseAcceptEnv([]string{name}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is settled: %v", name, err)
		}
	}
	for _, bad := range [][]string{{"LD_*"}, {""}, {"A B"}, {"A[bc]"}, {"A\\B"}, {"A=B"}, {"-A"}, make([]string, maxAcceptEnv+1)} {
		if got, err := parseAcceptEnv(bad); err == nil {
			t.Errorf("%q is %q", bad, got)
		}
	}
	if got, err := parseAcceptEnv(nil); err != nil || !got.takes("LC_ALL") {
		t.Errorf("by default %v, %v", got, err)
	}
	if got, err := parseAcceptEnv([]string{}); err != nil || got.takes("LANG") {
		t.Errorf("an empty list takes %v, %v", got, err)
	}
}
