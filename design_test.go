package module_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDesignNamesWhatExists holds DESIGN.md to the code: each path on it exists, and
// each name is declared in the library.
func TestDesignNamesWhatExists(t *testing.T) {
	page, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := declaredNames(t)
	elsewhere := []string{"Status", "Fetch"}                                    // a header, and a method of nats.go
	identifier := regexp.MustCompile(`^[A-Za-z]+[a-z][A-Za-z]*(\.[A-Za-z]+)*$`) // no stream, subject or header
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(string(page), -1) {
		name := m[1]
		switch {
		case strings.Contains(name, "/") || strings.HasSuffix(name, ".go"):
			if _, err := os.Stat(filepath.FromSlash(name)); err != nil {
				t.Errorf("DESIGN.md names %s: %v", name, err)
			}
		case !identifier.MatchString(name), slices.Contains(elsewhere, name), strings.HasPrefix(name, "runtime."):
		case !declared[path.Ext("." + name)[1:]] && !declared[name[strings.LastIndexByte(name, '.')+1:]]:
			t.Errorf("DESIGN.md names %s, which nothing declares", name)
		}
	}
}

// declaredNames are the names of the library's packages, functions, methods, types,
// variables and fields.
func declaredNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, f := range libraryFiles(t) {
		names[f.Name.Name] = true
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				names[n.Name.Name] = true
			case *ast.TypeSpec:
				names[n.Name.Name] = true
			case *ast.ValueSpec:
				for _, id := range n.Names {
					names[id.Name] = true
				}
			case *ast.Field:
				for _, id := range n.Names {
					names[id.Name] = true
				}
			}
			return true
		})
	}
	return names
}

// libraryFiles are the parsed files of broker, metrics and tracing, tests left out, by
// their paths.
func libraryFiles(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	for _, root := range []string{"broker", "metrics", "tracing"} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
			files[filepath.ToSlash(p)] = f
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// TestImportsRunDownwards holds the packages of the broker to the table in DESIGN.md: a
// package imports only those above it.
func TestImportsRunDownwards(t *testing.T) {
	page, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		order = append(order, m[1])
	}
	const inside = "go-micro-jetstream/broker/internal/"
	seen := map[string]bool{}
	for file, f := range libraryFiles(t) {
		if !strings.HasPrefix(file, "broker/internal/") {
			continue
		}
		own := path.Base(path.Dir(file))
		seen[own] = true
		level := slices.Index(order, own)
		if level < 0 {
			t.Errorf("package %s is not in the table of DESIGN.md", own)
			continue
		}
		for _, imported := range f.Imports {
			p := strings.Trim(imported.Path.Value, `"`)
			switch {
			case strings.HasPrefix(p, "go-micro.dev/"), p == "go-micro-jetstream/broker":
				t.Errorf("%s imports %s: a mechanism knows neither go-micro nor the face", file, p)
			case strings.HasPrefix(p, inside) && slices.Index(order, strings.TrimPrefix(p, inside)) >= level:
				t.Errorf("%s imports %s, which does not stand above it in DESIGN.md", file, p)
			}
		}
	}
	for _, name := range order[:len(order)-1] { // the last one is the face
		if !seen[name] {
			t.Errorf("DESIGN.md has a package %s that does not exist", name)
		}
	}
}

// TestMutexesAreLockedWhereTheyAreDeclared holds each mutex of the broker to the file of
// the type that it guards.
func TestMutexesAreLockedWhereTheyAreDeclared(t *testing.T) {
	mutex := regexp.MustCompile(`^(\w+\.)*mu\.(Lock|Unlock|TryLock)$`)
	for file, f := range libraryFiles(t) {
		declares, locks := false, false
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				if s, ok := n.Type.(*ast.SelectorExpr); ok && strings.HasSuffix(s.Sel.Name, "Mutex") {
					declares = true
				}
			case *ast.SelectorExpr:
				locks = locks || mutex.MatchString(selector(n))
			}
			return true
		})
		if locks && !declares {
			t.Errorf("%s locks a mutex that another file declares", file)
		}
	}
}

// selector spells a chain of selectors.
func selector(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return selector(e.X) + "." + e.Sel.Name
	}
	return "?"
}
