// Command rename gives this module another path in all its files, so that a fork can be
// fetched with go get:
//
//	go run ./internal/rename github.com/you/go-micro-jetstream
//
// It changes import paths and what else names the module: go.mod files, documentation,
// configuration, golden files. It leaves alone the marks that the broker writes into the
// metadata of streams and consumers, so that a fork recognises those of the original.
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 2 || strings.HasPrefix(os.Args[1], "-") {
		fmt.Fprintln(os.Stderr, "usage: go run ./internal/rename github.com/you/go-micro-jetstream")
		os.Exit(2)
	}
	changed, err := rename(".", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "rename:", err)
		os.Exit(1)
	}
	fmt.Printf("%d files changed. Look at git diff, and at what the pages still say about installing.\n", changed)
}

var (
	moduleLine = regexp.MustCompile(`(?m)^module (\S+)$`)
	newPath    = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*\.[a-z]{2,}(?:/[A-Za-z0-9._~-]+)+$`)
)

// rename changes the module path in all files below a directory that has the go.mod. It
// returns how many files it has changed.
func rename(root, to string) (changed int, err error) {
	if !newPath.MatchString(to) {
		return 0, fmt.Errorf("%q is no module path that begins with a host, such as github.com/you/go-micro-jetstream", to)
	}
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return 0, fmt.Errorf("run it in the root of the module: %w", err)
	}
	m := moduleLine.FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%s has no module line", filepath.Join(root, "go.mod"))
	}
	replace := replacer(string(m[1]), to)
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		was, err := os.ReadFile(file)
		if err != nil || bytes.IndexByte(was, 0) >= 0 { // a picture
			return err
		}
		is := replace(was)
		if strings.HasSuffix(file, ".go") && !bytes.Equal(is, was) {
			if is, err = format.Source(is); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		if bytes.Equal(is, was) {
			return nil
		}
		changed++
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(file, is, info.Mode().Perm())
	})
	return changed, err
}

// replacer returns the function that replaces the path in a text: where a path begins
// and a package follows, and in the lines of go.mod files and go commands.
func replacer(from, to string) func([]byte) []byte {
	name := regexp.QuoteMeta(from)
	inPath := regexp.MustCompile(`(^|[^\w./-])` + name + `/`)
	inMod := regexp.MustCompile(`(?m)^((?:module|replace|require)\s+|\t)` + name + `(\s|$)`)
	inCommand := regexp.MustCompile(`(-require=|-replace=)` + name + `([@=])`)
	return func(text []byte) []byte {
		text = inPath.ReplaceAll(text, []byte("${1}"+to+"/"))
		text = inMod.ReplaceAll(text, []byte("${1}"+to+"${2}"))
		return inCommand.ReplaceAll(text, []byte("${1}"+to+"${2}"))
	}
}
