package asked

import (
	"encoding/json"
	"maps"
	"reflect"
	"strings"
)

// Record is what was last asked for: the values of fields, by their names in the
// server's JSON. A field with its zero value is left out. nil: nobody knows.
type Record map[string]json.RawMessage

// Parse reads a record. It returns nil for a text that is none.
func Parse(text string) Record {
	var r Record
	if json.Unmarshal([]byte(text), &r) != nil {
		return nil
	}
	return r
}

// String returns the record as Parse reads it: the same text for the same record.
func (r Record) String() string {
	text, err := json.Marshal(r)
	if err != nil { // a value of Set that is no JSON
		return ""
	}
	return string(text)
}

// Set remembers a value, or forgets it if it is nil.
func (r Record) Set(field string, value any) {
	r.set(field, reflect.ValueOf(value))
}

func (r Record) set(field string, v reflect.Value) {
	delete(r, field)
	if !v.IsValid() || v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 {
		return
	}
	if text, err := json.Marshal(v.Interface()); err == nil {
		r[field] = text
	}
}

// Get reads a value. It leaves v alone if there is none.
func (r Record) Get(field string, v any) {
	if text, ok := r[field]; ok {
		_ = json.Unmarshal(text, v)
	}
}

// Changed says in the log why settings are not what the code asks for, although it
// has not changed them.
func (r Record) Changed() string {
	if r == nil {
		return "was made before settings were remembered"
	}
	return "was changed by somebody else"
}

func (r Record) copy() Record {
	c := Record{}
	maps.Copy(c, r)
	return c
}

// decode turns a record into settings. A field that cannot be read is as if nobody
// had asked for it.
func decode[C any](r Record) (c C) {
	v := reflect.ValueOf(&c).Elem()
	for _, f := range reflect.VisibleFields(v.Type()) {
		if text, ok := r[jsonName[C](f.Name)]; ok {
			field := v.FieldByIndex(f.Index)
			if json.Unmarshal(text, field.Addr().Interface()) != nil {
				field.SetZero()
			}
		}
	}
	return c
}

// jsonName returns the name that a field of C has in JSON.
func jsonName[C any](field string) string {
	f, _ := reflect.TypeFor[C]().FieldByName(field)
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
