package identity

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// names are the checks with what they say they take.
var names = []struct {
	check func(string) error
	form  *regexp.Regexp
	most  int
}{
	{CheckLogin, regexp.MustCompile(`^[a-z_][a-z0-9._-]{0,31}$`), 32},
	{CheckUser, regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._@+-]{0,127}$`), 128},
	{CheckNodeID, regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`), 64},
	{CheckHostName, regexp.MustCompile(`^[a-z0-9_:][a-z0-9._:-]*$`), 253},
	{CheckCluster, regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`), 253},
	{checkLevel, regexp.MustCompile(`^[a-z_]{1,32}$`), 32},
}

func checkLevel(s string) error { return CheckEvidence(Evidence{Level: s}) }

func TestNamesAreOfTheFormThatIsSaid(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "\x00", "a\n", "\na", "é", "aé", "a\xff", "\xffa", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a-.b", "a b"}
	for _, n := range []int{31, 32, 33, 62, 63, 64, 65, 127, 128, 129, 252, 253, 254} {
		texts = append(texts, strings.Repeat("a", n), strings.Repeat("a.", n/2)+"a", "b."+strings.Repeat("a", n))
	}
	const letters = "azAZ09._-@+: \n\x80é"
	for range 20_000 {
		b := make([]byte, 1+r.IntN(6))
		for i := range b {
			b[i] = letters[r.IntN(len(letters))]
		}
		texts = append(texts, string(b))
	}
	for i, name := range names {
		good := 0
		for _, text := range texts {
			want := name.form.MatchString(text) && len(text) <= name.most
			if got := name.check(text) == nil; got != want {
				t.Fatalf("%d: %q: %v, want %v", i, text, got, want)
			}
			if want {
				good++
			}
		}
		if good < 20 {
			t.Error(fmt.Sprint(i), "only", good, "were good: that is no test")
		}
	}
}
