// Package microtls, imported for its effect, has go-micro verify TLS
// certificates. go-micro's default is not to, and it says so in a warning that
// every program prints as it starts, when the variable of its default HTTP
// broker is initialised.
//
// It works because packages are initialised in the order of their import paths
// as far as their imports allow, and this one imports next to nothing.
package microtls

import "os"

const variable = "MICRO_TLS_SECURE"

func init() {
	if _, set := os.LookupEnv(variable); !set {
		_ = os.Setenv(variable, "true")
	}
}
