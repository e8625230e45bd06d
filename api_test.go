package module_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/doc"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// golden is where the API is written down: a change of it is a decision, and
// shows in the diff.
const golden = "api.txt"

var update = flag.Bool("update", false, "write the API as it is now to "+golden)

// pkg is what `go list` tells of a package.
type pkg struct {
	ImportPath, Name, Dir, Export                string
	DepOnly                                      bool
	GoFiles, CgoFiles, TestGoFiles, XTestGoFiles []string
}

// TestAPI compares the exported API with what is written down.
func TestAPI(t *testing.T) {
	t.Parallel()
	got := describe(t)
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	lines := func(text []byte) []string { return strings.Split(string(text), "\n") }
	for _, line := range lines(want) {
		if !slices.Contains(lines(got), line) {
			t.Errorf("- %s", line)
		}
	}
	for _, line := range lines(got) {
		if !slices.Contains(lines(want), line) {
			t.Errorf("+ %s", line)
		}
	}
	t.Errorf("the exported API is not what %s says. If that is what you want, run: go test . -update", golden)
}

// TestEveryFunctionHasAnExample asks the same of types that have methods.
func TestEveryFunctionHasAnExample(t *testing.T) {
	t.Parallel()
	for _, p := range public(list(t)) {
		fset := token.NewFileSet()
		var files []*ast.File
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		docs, err := doc.NewFromFiles(fset, files, p.ImportPath)
		if err != nil {
			t.Fatal(err)
		}
		want := func(name, comment string, examples []*doc.Example) {
			if comment == "" {
				t.Errorf("%s.%s has no comment", p.Name, name)
			}
			if len(examples) == 0 {
				t.Errorf("%s.%s has no example", p.Name, name)
			}
			for _, e := range examples {
				if e.Output == "" && !e.EmptyOutput {
					t.Errorf("%s.Example%s has no output, so that it is not run", p.Name, e.Name)
				}
			}
		}
		for _, f := range docs.Funcs {
			want(f.Name, f.Doc, f.Examples)
		}
		for _, typ := range docs.Types {
			if len(typ.Methods) > 0 || len(typ.Examples) > 0 {
				want(typ.Name, typ.Doc, typ.Examples)
			}
			for _, f := range typ.Funcs {
				want(f.Name, f.Doc, f.Examples)
			}
		}
	}
}

// list returns the packages of the module, and those they depend on with their
// export data.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-export", "-json", "go-micro-jetstream/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// public returns those that others can import, examples aside.
func public(all []pkg) []pkg {
	return slices.DeleteFunc(slices.Clone(all), func(p pkg) bool {
		return p.DepOnly || p.Name == "main" || len(p.GoFiles) == 0 ||
			strings.Contains(p.ImportPath+"/", "/internal/") || strings.Contains(p.ImportPath, "/examples/")
	})
}

// describe writes the API down, one package after the other.
func describe(t *testing.T) []byte {
	t.Helper()
	all := list(t)
	exports := map[string]string{}
	for _, p := range all {
		exports[p.ImportPath] = p.Export
	}
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	var out bytes.Buffer
	fmt.Fprintln(&out, "The exported API. A test compares it; `go test . -update` writes it.")
	for _, p := range slices.SortedFunc(slices.Values(public(all)), func(a, b pkg) int { return strings.Compare(a.ImportPath, b.ImportPath) }) {
		typed, err := imp.Import(p.ImportPath)
		if err != nil {
			t.Fatal(err)
		}
		printPackage(&out, typed)
	}
	return out.Bytes()
}

// printPackage writes which modules of others the API mentions, as their next
// major version would be another, and its declarations in alphabetical order.
func printPackage(out io.Writer, p *types.Package) {
	imports := map[string]bool{}
	name := func(other *types.Package) string {
		if other == p {
			return ""
		}
		if strings.Contains(other.Path(), ".") { // not of the standard library, not ours
			imports[other.Path()] = true
		}
		return other.Name()
	}
	var decls []string
	for _, n := range p.Scope().Names() {
		if obj := p.Scope().Lookup(n); obj.Exported() {
			decls = append(decls, declaration(obj, name)...)
		}
	}
	fmt.Fprintf(out, "\npackage %s // %s\n", p.Name(), p.Path())
	for _, path := range slices.Sorted(maps.Keys(imports)) {
		fmt.Fprintf(out, "import %q\n", path)
	}
	for _, d := range decls {
		fmt.Fprintln(out, d)
	}
}

// declaration is an exported name with all that belongs to it.
func declaration(obj types.Object, name types.Qualifier) []string {
	switch obj := obj.(type) {
	case *types.Const:
		return []string{fmt.Sprintf("%s = %s", types.ObjectString(obj, name), obj.Val().ExactString())}
	case *types.TypeName:
		return typeDeclaration(obj, name)
	}
	return []string{types.ObjectString(obj, name)}
}

// typeDeclaration is a type, its exported fields and its methods, each on a line
// of its own that tells by itself where it belongs.
func typeDeclaration(obj *types.TypeName, name types.Qualifier) []string {
	fields, ok := obj.Type().Underlying().(*types.Struct)
	lines := []string{types.ObjectString(obj, name)}
	if ok {
		lines = []string{fmt.Sprintf("type %s struct", obj.Name())}
		for f := range fields.Fields() {
			switch {
			case !f.Exported():
			case f.Embedded():
				lines = append(lines, fmt.Sprintf("type %s struct, %s", obj.Name(), types.TypeString(f.Type(), name)))
			default:
				lines = append(lines, fmt.Sprintf("type %s struct, %s %s", obj.Name(), f.Name(), types.TypeString(f.Type(), name)))
			}
		}
	}
	for m := range types.NewMethodSet(types.NewPointer(obj.Type())).Methods() {
		if f := m.Obj(); f.Exported() && len(m.Index()) == 1 {
			lines = append(lines, types.ObjectString(f, name))
		}
	}
	return lines
}
