package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func ExampleSource_AssetTag() {
	dir, err := os.MkdirTemp("", "dmi")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{"chassis_asset_tag": "No Asset Tag\n", "product_serial": "C00AA0AAAA0A\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println(Source{DMIDir: dir}.AssetTag(context.Background()))
	// Output: C00AA0AAAA0A <nil>
}

func FuzzOSReleaseGivesPlainText(f *testing.F) {
	f.Add("ID=debian\nVERSION_ID=\"12\"\n")
	f.Add("A='x'\nB=\"\\\"\\\\\"\nC='\n=\n#")
	f.Fuzz(func(t *testing.T, text string) {
		s := source(t, nil, text)
		for key, value := range s.osRelease() {
			if len(value) > maxField || field(value) != value {
				t.Errorf("%q has value %q", key, value)
			}
		}
	})
}
