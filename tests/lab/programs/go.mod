module lab/programs

go 1.24
