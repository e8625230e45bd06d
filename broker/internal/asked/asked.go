// Package asked decides which settings of a stream or consumer follow the code. It
// compares what was last asked for, what is asked for now, and what the server has.
package asked

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Kind says how the settings of streams, or of consumers, are compared. C is a
// struct of nats.go whose fields have JSON names.
type Kind[C any] struct {
	// Fields are the names of the fields that may follow the code. All others keep
	// what the server has.
	Fields []string
	// Always are those of Fields whose zero value is a choice, too. For the others
	// it means that the server chooses.
	Always []string
	// Fixed reports whether the server cannot change a field from what it has to
	// what is wanted.
	Fixed func(field string, have, want *C) bool
	// Fill fills in what the server chooses, and keeps to its limits.
	Fill func(*C)
}

// Change is a field with two values, made for the log.
type Change struct{ Field, Old, New string }

// Plan is what becomes of the settings. Each field that differs is in one of the
// lists at most: what the code leaves to the server is in none.
type Plan[C any] struct {
	Config C        // what the server has, with Apply
	Record Record   // what is to be remembered once Apply is done
	Apply  []Change // the code has changed these, and nobody else has
	Kept   []Change // somebody else has changed these; New is what the code asks for
	Fixed  []Change // the server cannot change these
}

// Compare makes the plan. A record of nil means that nobody remembers what was
// asked for: then what the server would choose by itself may be changed, and
// everything else counts as somebody else's choice.
func (k *Kind[C]) Compare(last Record, want, have C) Plan[C] {
	p := Plan[C]{Config: have, Record: last.copy()}
	was := decode[C](last)
	filled := [3]C{was, want, have}
	for i := range filled {
		k.Fill(&filled[i])
	}
	result, raw := reflect.ValueOf(&p.Config).Elem(), reflect.ValueOf(&want).Elem()
	b, w, h := reflect.ValueOf(&filled[0]).Elem(), reflect.ValueOf(&filled[1]).Elem(), reflect.ValueOf(&filled[2]).Elem()
	for _, name := range k.Fields {
		b, w, h, raw := b.FieldByName(name), w.FieldByName(name), h.FieldByName(name), raw.FieldByName(name)
		if equal(w, h) {
			p.Record.set(jsonName[C](name), raw)
			continue
		}
		change := Change{name, text(name, h), text(name, w)}
		named := k.named(name, raw)
		switch {
		case k.Fixed(name, &filled[2], &filled[1]):
			// Where the code has not changed, this module has made it otherwise.
			if !equal(b, w) || last == nil && named {
				p.Fixed = append(p.Fixed, change)
			}
		case equal(b, h):
			value := w
			if raw.IsZero() { // the server chooses
				value = raw
			}
			result.FieldByName(name).Set(value)
			p.Record.set(jsonName[C](name), raw)
			p.Apply = append(p.Apply, change)
		case named:
			p.Kept = append(p.Kept, change)
		}
	}
	return p
}

// Differences lists where the server has something else than what is asked for.
// Old is what it has.
func (k *Kind[C]) Differences(want, have C) (all []Change) {
	raw := reflect.ValueOf(want)
	k.Fill(&want)
	k.Fill(&have)
	w, h := reflect.ValueOf(want), reflect.ValueOf(have)
	for _, name := range k.Fields {
		if w, h := w.FieldByName(name), h.FieldByName(name); k.named(name, raw.FieldByName(name)) && !equal(w, h) {
			all = append(all, Change{name, text(name, h), text(name, w)})
		}
	}
	return all
}

// RecordOf returns the record of what is asked for.
func (k *Kind[C]) RecordOf(want C) Record {
	r, v := Record{}, reflect.ValueOf(want)
	for _, name := range k.Fields {
		r.set(jsonName[C](name), v.FieldByName(name))
	}
	return r
}

// named reports whether the code says something about a field.
func (k *Kind[C]) named(name string, v reflect.Value) bool {
	return !v.IsZero() || slices.Contains(k.Always, name)
}

func equal(a, b reflect.Value) bool {
	if a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// text is a value as the log shows it.
func text(name string, v reflect.Value) string {
	switch x := v.Interface(); {
	case strings.HasPrefix(name, "Max") && v.CanInt() && v.Int() <= 0:
		return "unlimited"
	case v.Kind() == reflect.Slice && v.Len() == 0, v.Kind() == reflect.String && v.Len() == 0, v.Kind() == reflect.Pointer && v.IsNil():
		return "unset"
	case v.Kind() == reflect.Pointer:
		return fmt.Sprintf("%+v", v.Elem().Interface())
	case v.Kind() == reflect.Struct:
		return fmt.Sprintf("%+v", x)
	default:
		return fmt.Sprint(x)
	}
}

// Were says of each change what the field is now and what it was.
func Were(changes []Change) string {
	return join(changes, func(c Change) string { return fmt.Sprintf("%s is now %s, was %s", c.Field, c.New, c.Old) })
}

// AreNot says of each change what the field is, and what the code asks for.
func AreNot(changes []Change) string {
	return join(changes, func(c Change) string { return fmt.Sprintf("%s is %s, not %s", c.Field, c.Old, c.New) })
}

func join(changes []Change, say func(Change) string) string {
	texts := make([]string, len(changes))
	for i, c := range changes {
		texts[i] = say(c)
	}
	return strings.Join(texts, "; ")
}
