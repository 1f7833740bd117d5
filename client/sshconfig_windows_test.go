package client

import "testing"

func TestPathsOfWindowsAreWrittenWithSlashes(t *testing.T) {
	for path, want := range map[string]string{
		`C:\Users\a b\.dtsh`: `"C:/Users/a b/.dtsh"`, `\\.\pipe\dtsh-agent`: `"//./pipe/dtsh-agent"`,
	} {
		if got, err := configPath(path); err != nil || got != want {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
}
