// Package devicetrust has no code of its own. The tests here hold the floor
// plan of README.md: which room may open the door of which.
package devicetrust

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "devicetrust"

// The wire comes in three packages that go together.
var wire = []string{"api", "api/dtv1", "api/dtv1/dtv1connect"}

// arrows are all that may be imported of ours by what ships. A package that
// is not here fails the test until it is drawn.
var arrows = map[string][]string{
	// floor 0: leaves
	"api":                  {"api/dtv1"},
	"api/dtv1":             {},
	"api/dtv1/dtv1connect": {"api/dtv1"},
	"identity":             {},
	"policy":               {},
	"audit/event":          {},
	"devices/assettag":     {},
	"store":                {},
	"durable":              {},
	"node/helper":          {},
	"node/filetransfer":    {},
	"node/sockets":         {},
	// floor 1
	"resource":     {"policy", "identity"},
	"identity/krl": {"policy"},
	// what servers follow
	"feed": with(wire, "durable", "identity", "policy", "resource"),
	// floor 2
	"audit":       with(wire, "store", "audit/event"),
	"devices/tpm": with(wire, "identity", "devices/assettag"),
	// floor 3: each on its own, none on another
	"login":          with(wire, third...),
	"devices":        with(wire, third...),
	"ca":             with(wire, third...),
	"policy/catalog": with(wire, third...),
	// on top of one of them
	"devices/mdm": {"api", "devices", "resource", "store"},
	// floor 4
	"authd": with(wire, append([]string{"login", "devices", "devices/mdm", "ca", "policy/catalog", "feed", "identity/krl"}, third...)...),
	"node": with(wire, "node/helper", "node/filetransfer", "node/sockets", "node/sshd", "feed", "durable", "identity",
		"identity/krl", "policy", "resource", "audit/event"),
	"node/sshd": {"api", "feed", "durable", "identity", "identity/krl", "policy", "audit/event"},
	"client": with(wire, "client/machine", "client/agent", "identity", "policy", "resource",
		"devices/tpm", "devices/assettag"),
	"client/agent":   {"api", "identity"},
	"client/machine": with(wire, "devices/assettag"),
	"client/forward": {},
	"client/files":   {"api"},
	"client/fanout":  {},
	// floor 5
	"cmd/internal/cli": with(wire, "resource"),
	"cmd/dtauthd": {"cmd/internal/cli", "authd", "store", "audit", "ca", "login", "devices",
		"policy/catalog"},
	"cmd/dtnoded": {"cmd/internal/cli", "node", "node/sshd", "api"},
	"cmd/dtsh": with(wire, "cmd/internal/cli", "client", "client/fanout", "client/files", "client/machine", "client/forward", "client/agent", "identity",
		"resource", "devices/assettag", "devices/tpm"),
	"cmd/dtctl": with(wire, "cmd/internal/cli", "client", "resource", "policy", "audit/event"),
}

// What the packages of the third floor stand on.
var third = []string{"store", "audit", "audit/event", "identity", "policy", "resource", "devices/assettag"}

// testOnly packages may import what they like, and nothing that ships may
// import them.
var testOnly = []string{"store/storetest", "policy/vectors", "devices/tpm/tpmtest", "client/clienttest", "node/nodetest", "e2e"}

// What runs on servers and laptops does not contain the signer, nor what it
// signs from.
var (
	outside = []string{"node", "node/sshd", "feed", "client", "client/fanout", "client/files", "client/machine", "client/forward", "client/agent", "cmd/dtnoded", "cmd/dtsh", "cmd/dtctl"}
	inside  = []string{"ca", "login", "devices", "devices/mdm", "policy/catalog", "store", "audit", "authd"}
)

func with(a []string, b ...string) []string { return append(slices.Clone(a), b...) }

func TestImportsOnlyGoDown(t *testing.T) {
	for pkg, imports := range shippedImports(t) {
		allowed, drawn := arrows[pkg]
		if !drawn {
			t.Errorf("package %s is not drawn: add it to the arrows with what it may import", pkg)
			continue
		}
		for imported, file := range imports {
			if !slices.Contains(allowed, imported) {
				t.Errorf("%s: %s imports %s, an arrow that is not drawn", file, pkg, imported)
			}
		}
	}
}

func TestTheMapNamesEveryRoom(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range arrows {
		if pkg == "cmd/internal/cli" || strings.HasPrefix(pkg, "api/") {
			continue // parts of the rooms around them
		}
		if !strings.Contains(string(readme), "`"+pkg+"`") {
			t.Errorf("README.md does not say what %s owns", pkg)
		}
	}
}

func TestWhatRunsOnLaptopsAndServersDoesNotContainTheSigner(t *testing.T) {
	imports := shippedImports(t)
	for _, from := range outside {
		if imports[from] == nil {
			continue // drawn, and not there
		}
		for reached, by := range reach(imports, from) {
			if slices.Contains(inside, reached) {
				t.Errorf("%s contains %s, by way of %s", from, reached, by)
			}
		}
	}
}

func TestWhatShipsDoesNotContainTests(t *testing.T) {
	for pkg, imports := range shippedImports(t) {
		for imported, file := range imports {
			if isTestOnly(imported) {
				t.Errorf("%s: %s imports %s, which is for tests", file, pkg, imported)
			}
		}
	}
}

// reach gives everything that from imports, and what that imports, each with
// the package that imports it.
func reach(imports map[string]map[string]string, from string) map[string]string {
	reached, todo := map[string]string{}, []string{from}
	for len(todo) > 0 {
		pkg := todo[0]
		todo = todo[1:]
		for imported := range imports[pkg] {
			if _, ok := reached[imported]; !ok {
				reached[imported] = pkg
				todo = append(todo, imported)
			}
		}
	}
	return reached
}

// shippedImports gives for each package that ships what it imports of ours,
// each with the file that does. It parses the files, whatever system they are
// built for; asking the go command would leave the answer in the test cache
// when a file changes.
func shippedImports(t *testing.T) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{}
	eachFile(t, parser.ImportsOnly, func(name string, _ *token.FileSet, f *ast.File) {
		pkg := path.Dir(name)
		if !ships(name) {
			return
		}
		if all[pkg] == nil {
			all[pkg] = map[string]string{}
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
				all[pkg][ours] = name
			}
		}
	})
	if len(all) < 8 {
		t.Fatalf("found only %d packages: %q", len(all), slices.Sorted(maps.Keys(all)))
	}
	return all
}

func ships(file string) bool {
	return !strings.HasSuffix(file, "_test.go") && !isTestOnly(path.Dir(file))
}

func isTestOnly(pkg string) bool {
	return slices.ContainsFunc(testOnly, func(p string) bool {
		return pkg == p || strings.HasPrefix(pkg, p+"/")
	})
}

// eachFile parses every Go file of the module; names use slashes.
func eachFile(t *testing.T, mode parser.Mode, visit func(name string, set *token.FileSet, f *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); base != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, text, mode)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(name), set, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
