package policy_test

import (
	"testing"

	"devicetrust/policy"
	"devicetrust/policy/vectors"
)

func TestGoldenVectors(t *testing.T) {
	files, err := vectors.Read("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(f.Name, func(t *testing.T) {
			for _, c := range f.Cases {
				s, err := f.State(c)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Check(policy.Decide(s, c.Request(s))); err != nil {
					t.Errorf("%s\n\t%v", c.Line, err)
				}
			}
		})
	}
}

func TestAFolderWithoutVectorsFails(t *testing.T) {
	if files, err := vectors.Read(t.TempDir()); err == nil {
		t.Errorf("got %v", files)
	}
}
