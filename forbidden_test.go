package devicetrust

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strconv"
	"strings"
	"testing"
)

// forbidden below cmd: whoever holds the clock, the exit and the output can
// be tested; whoever takes them cannot.
var forbidden = map[string][]string{
	"os":   {"Exit"},
	"time": {"Now", "Since", "Until"},
	"fmt":  {"Print", "Printf", "Println"},
	"log":  {"Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln", "Print", "Printf", "Println"},
}

func TestOnlyMainTakesTheClockTheExitAndTheOutput(t *testing.T) {
	eachFile(t, parser.SkipObjectResolution, func(name string, set *token.FileSet, f *ast.File) {
		if !ships(name) || strings.HasPrefix(name, "cmd/") {
			return
		}
		names := importNames(f)
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				pkg, ok := n.X.(*ast.Ident)
				if !ok {
					break
				}
				for _, f := range forbidden[names[pkg.Name]] {
					if n.Sel.Name == f {
						t.Errorf("%s: %s.%s is for main", set.Position(n.Pos()), pkg.Name, f)
					}
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "panic" {
					t.Errorf("%s: a panic ends what other people are doing; return an error", set.Position(n.Pos()))
				}
			}
			return true
		})
	})
}

// gliderlabs/ssh freezes the user of a connection at its first attempt to
// authenticate, and lets all attempts share one set of permissions: a session
// that asked it could be somebody else's. The verified ServerConn knows.
const gliderlabs = "github.com/gliderlabs/ssh"

var unverified = map[string]bool{"User": true, "Permissions": true, "PublicKey": true}

func TestTheNodeNeverAsksGliderlabsWhoSomebodyIs(t *testing.T) {
	eachFile(t, parser.SkipObjectResolution, func(name string, set *token.FileSet, f *ast.File) {
		if !ships(name) || !strings.HasPrefix(name, "node/") {
			return
		}
		for _, at := range asksGliderlabs(f) {
			t.Errorf("%s: read the user and the identity from the verified ServerConn", set.Position(at))
		}
	})
}

func TestAskingGliderlabsWhoSomebodyIsWouldBeFound(t *testing.T) {
	const source = `package node
import glider "github.com/gliderlabs/ssh"
func a(ctx glider.Context) string { return ctx.User() }
func b(s glider.Session) any { return s.Permissions() }
var c = func(s glider.Session, k any) any { return s.PublicKey() }
func d(conn *gossh.ServerConn) string { return conn.User() + conn.Permissions.X }
`
	f, err := parser.ParseFile(token.NewFileSet(), "node/x.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(asksGliderlabs(f)); got != 3 {
		t.Errorf("found %d of 3", got)
	}
}

// asksGliderlabs finds User, Permissions and PublicKey on parameters that are
// gliderlabs' Context or Session.
func asksGliderlabs(f *ast.File) []token.Pos {
	names := importNames(f)
	var found []token.Pos
	inFunction := func(params *ast.FieldList, body *ast.BlockStmt) {
		theirs := map[string]bool{}
		for _, field := range params.List {
			typ, ok := field.Type.(*ast.SelectorExpr)
			if !ok {
				continue
			}
			if pkg, ok := typ.X.(*ast.Ident); !ok || names[pkg.Name] != gliderlabs {
				continue
			}
			for _, param := range field.Names {
				theirs[param.Name] = true
			}
		}
		ast.Inspect(body, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || !unverified[sel.Sel.Name] {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && theirs[x.Name] {
				found = append(found, sel.Pos())
			}
			return true
		})
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Body != nil {
				inFunction(n.Type.Params, n.Body)
			}
		case *ast.FuncLit:
			inFunction(n.Type.Params, n.Body)
		}
		return true
	})
	return found
}

// Whoever says that somebody else holds a connection to the address that a
// certificate is pinned to lets it in from anywhere. sshd does; nobody else
// that asks us.
func TestOnlyTheHelperOfSshdLeavesTheAddressToTheServer(t *testing.T) {
	said := 0
	eachFile(t, parser.SkipObjectResolution, func(name string, set *token.FileSet, f *ast.File) {
		if !ships(name) || path.Dir(name) == "identity" {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && id.Name == "ServerChecksAddr" {
				said++
				if path.Dir(name) != "node/sshd" {
					t.Errorf("%s: leaves the source address of a connection unchecked", set.Position(n.Pos()))
				}
			}
			return true
		})
	})
	if said != 1 {
		t.Errorf("it is said in %d places, want 1", said)
	}
}

// importNames maps the names under which f knows its imports to their paths.
func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has refused it already
		}
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = imported
	}
	return names
}
