package identity

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

// x/crypto before v0.55.0 recursed without bound into certificates signed by
// certificates and asked for source-address in some callbacks only; a
// dependency pins an older one, so go.mod must say more.
func TestXCryptoIsNotOlderThanTheFixesWeRelyOn(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s+golang\.org/x/crypto v0\.(\d+)\.\d+$`).FindSubmatch(mod)
	if m == nil {
		t.Fatal("go.mod does not name golang.org/x/crypto v0.*")
	}
	if minor, err := strconv.Atoi(string(m[1])); err != nil || minor < 55 {
		t.Errorf("golang.org/x/crypto is v0.%s, want at least v0.55.0", m[1])
	}
	if regexp.MustCompile(`(?m)^replace|=>`).Match(mod) {
		t.Error("go.mod replaces a module: the versions above may not be those that are built")
	}
}
