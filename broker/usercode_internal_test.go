package broker

import (
	"reflect"
	"slices"
	"testing"
)

// A hook without a place of its own would be called by the name of another one.
func TestEachHookHasAPlace(t *testing.T) {
	for f := range reflect.TypeFor[Hooks]().Fields() {
		if f.Type.Kind() == reflect.Func && !slices.Contains(placeNames[:], f.Name) {
			t.Errorf("%s has none", f.Name)
		}
	}
}
