"""The result page: modules gather values, ``templates/`` lays them out as one self-contained HTML file."""
