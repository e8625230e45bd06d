// There is no Go code here. This file keeps the Go code in node_modules out of the
// parent module.
module go-micro-jetstream/dashboards/picture

go 1.26
